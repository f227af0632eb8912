"""Every example of docs/library.md and README.md runs as it is printed, from the first to the last:
before a server that boto3's configuration names, with a Redis of the machine."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
from django.conf import settings
from fsspec.registry import _registry

from mimicfs import process
from mimicfs.backends.default import Redis
from mimicfs.mimicdb import Mirror

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("server", ["moto"], indirect=True),
    # Of the libraries that are used.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

ROOT = Path(__file__).resolve().parents[2]
_EXAMPLE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples(document: str) -> list[str]:
    """Return the examples of *document*, each with the lines before it empty, so that an error
    names its own line."""
    text = (ROOT / document).read_text()
    return ["\n" * text[: it.start(1)].count("\n") + it[1] for it in _EXAMPLE.finditer(text)]


def run(code: str, document: str, names: dict[str, Any]) -> None:
    compiled = compile(code, document, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if compiled.co_flags & inspect.CO_COROUTINE:
        asyncio.run(eval(compiled, names))
    else:
        exec(compiled, names)


@pytest.fixture(autouse=True)
def mirrors_end(monkeypatch):
    """What the examples open is closed at their end, as by the end of a reader's process."""
    opened, begin = [], Mirror.__init__

    def noted(self, *args):
        begin(self, *args)
        opened.append(self)

    monkeypatch.setattr(Mirror, "__init__", noted)
    yield
    for each in opened:
        each.close()


@pytest.fixture
def names(monkeypatch, tmp_path, client, server, redis_port):
    """The names that the examples do not say: a client, a bucket "photos", keys, a machine."""
    monkeypatch.chdir(tmp_path)
    for protocol in ("s3", "s3a", "mimicfs"):  # an example gives them options of its own
        monkeypatch.setitem(fsspec.config.conf, protocol, {})
    for protocol in ("s3", "s3a"):
        monkeypatch.setitem(_registry, protocol, s3fs.S3FileSystem)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server)
    monkeypatch.setattr(process, "_current", [])
    monkeypatch.setattr(
        "mimicfs.backends.default.Redis",
        lambda **options: Redis(port=redis_port, **{"namespace": "examples", **options}),
    )
    client.create_bucket(Bucket="photos")
    client.create_bucket(Bucket="bucket")
    enabled = {"Status": "Enabled"}
    client.put_bucket_versioning(Bucket="photos", VersioningConfiguration=enabled)
    client.put_object(Bucket="photos", Key="2026/a.jpg", Body=b"...")
    return {"__name__": "examples", "KEY": "AKIDEXAMPLE", "SECRET": "very-secret-key"}


@pytest.mark.parametrize("document", ["docs/library.md", "README.md"])
def test_the_examples_run(document, names, tmp_path):
    for code in examples(document):
        here = code.replace("/var/lib/", f"{tmp_path}/").replace("2026-11-01T18:00", "now")
        run(here, document, names)
    if "MimickingStorage" in names:  # which Django would make
        settings.configure()
        storage = names["MimickingStorage"](bucket_name="photos")
        assert storage.listdir("2026") == ([], ["a.jpg"])
