"""Every method that programs use takes boto's parameters, in boto's order."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from mimicfs.s3.bucket import Bucket
from mimicfs.s3.connection import S3Connection
from mimicfs.s3.key import Key
from mimicfs.s3.multipart import MultiPartUpload

CLASSES = {cls.__name__: cls for cls in (S3Connection, Bucket, Key, MultiPartUpload)}
ROWS = [
    line.split()
    for line in (Path(__file__).parent / "boto_2_49_signatures.txt").read_text().splitlines()
    if not line.startswith("#")
]


def left_out() -> dict[str, str]:
    return {
        f"{cls.__name__}.{name}": method.instead
        for cls in CLASSES.values()
        for name, method in inspect.getmembers(cls)
        if hasattr(method, "instead")
    }


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ".".join(row[:2]))
def test_takes_what_boto_takes(row: list[str]) -> None:
    name, method, *parameters = row
    ours = getattr(CLASSES[name], method)
    if hasattr(ours, "instead"):
        return
    found = list(inspect.signature(ours).parameters)[1:]
    named = [it for it in parameters if it != "params"]  # boto's **params: ours come before
    assert found[: len(named)] == named


def test_what_is_left_out_names_the_way_of_boto3() -> None:
    for name, instead in left_out().items():
        cls, _, method = name.partition(".")
        with pytest.raises(NotImplementedError, match=re.escape(f"connection.client.{instead}")):
            getattr(CLASSES[cls], method)(object())


def test_the_documentation_lists_what_is_left_out() -> None:
    text = (Path(__file__).parents[3] / "docs" / "library.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+\.\w+)` \| `client\.([^`]+)` \|$", text, re.MULTILINE))
    assert listed == left_out()
