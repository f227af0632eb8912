"""Mounts for what an administrator does: as in tests/mount."""

from mount.conftest import metadata_never, mount_at, needs_fuse, store  # noqa: F401  fixtures
