"""The tags that S3 accepts for an object (S3 user guide, "Categorizing your storage using tags").
Pure; no state."""

from __future__ import annotations

TAGS_MAX = 10  # of an object
_NAME_MAX, _VALUE_MAX = 128, 256  # characters
_BESIDES = "_.:/=+-@"  # letters, digits and spaces


def wrong_with(name: str, value: str) -> str:
    """Return the fault of the tag *name* = *value*; "": there is none."""
    if not 1 <= len(name) <= _NAME_MAX or len(value) > _VALUE_MAX:
        return f"{name}: S3 takes a name of {_NAME_MAX} characters and a value of {_VALUE_MAX}"
    for text in (name, value):
        if not all(char.isalnum() or char.isspace() or char in _BESIDES for char in text):
            return f"{text!r}: S3 takes letters, digits, spaces and {_BESIDES}"
    return ""
