"""mimicfs: S3 as a file system, and MimicDB, the mirror of S3's metadata that it stands on."""

__version__ = "0.1.0"
