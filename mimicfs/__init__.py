"""mimicfs: S3 as a file system, and MimicDB, the mirror of the metadata of S3 beneath it.

`MimicDB` and `mimic` are those of the library; they are imported at their first use, because
boto3 costs 150 ms. docs/design.md describes the rooms and modules below.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicfs.library import MimicDB, mimic

__version__ = "0.2.0"
__all__ = ["MimicDB", "__version__", "mimic"]


def __getattr__(name: str) -> Any:
    if name in ("MimicDB", "mimic"):
        from mimicfs import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
