"""Mounts whose page is looked at: as in tests/mount."""

from mount.conftest import mount_at, needs_fuse, store  # noqa: F401  fixtures
