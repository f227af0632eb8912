"""Rules by pattern: which keys they are about, which goes before which, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicfs.config.options import GivenValue
from mimicfs.config.rules import Stored, matches
from mimicfs.config.settled import Settled, settle
from mimicfs.errors import ConfigError

KEYS = ["a.jpg", "d/a.jpg", "d/e/a.jpg", "d/e/b.png", "d/", "/a.jpg", "d//a.jpg", "D/A.JPG", "é\n"]


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jpg", ["a.jpg", "d/a.jpg", "d/e/a.jpg", "/a.jpg", "d//a.jpg"]),
        ("/*.jpg", ["a.jpg"]),
        ("d/*.jpg", ["d/a.jpg"]),
        ("d/*/*.jpg", ["d/e/a.jpg", "d//a.jpg"]),
        ("d/**/*.jpg", ["d/a.jpg", "d/e/a.jpg", "d//a.jpg"]),
        ("d/", ["d/a.jpg", "d/e/a.jpg", "d/e/b.png", "d/", "d//a.jpg"]),
        ("d/**", ["d/a.jpg", "d/e/a.jpg", "d/e/b.png", "d/", "d//a.jpg"]),
        ("**/e/**", ["d/e/a.jpg", "d/e/b.png"]),
        ("[!a].*", ["d/e/b.png", "D/A.JPG"]),
        ("?.JPG", ["D/A.JPG"]),
        ("**", KEYS),
        ("é*", ["é\n"]),
        ("d", []),
    ],
)
def test_a_pattern_is_about_a_name_or_the_whole_key(pattern: str, matched: list[str]) -> None:
    assert [key for key in KEYS if matches(key, pattern)] == matched


def test_a_long_key_and_many_wildcards_take_no_time() -> None:
    assert matches("a/" * 511 + "a", "**/" * 200 + "a")
    assert not matches("a/" * 511 + "a", "**/" * 200 + "b")
    assert not matches("a" * 1024, "*a" * 200 + "b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "mimicfs").mkdir()
    return tmp_path / "mimicfs" / "config.toml"


def settled(path: Path, text: str, **flags: str) -> Settled:
    path.write_text(text)
    path.chmod(0o600)
    environ = {"XDG_CONFIG_HOME": str(path.parent.parent), "XDG_STATE_HOME": "/nowhere"}
    return settle({name: GivenValue(value, f"--{name}") for name, value in flags.items()}, environ)


TEXT = """
[buckets."*"]
storage-class = "STANDARD_IA"
sse = "aws:kms"
kms-key-id = "every"
[[buckets."*".rules]]
keys = ["*.jpg", "*.png"]
cache-control = "max-age=1"
tags = { team = "web", cost = "1" }
[[buckets."*".rules]]
keys = "*.jpg"
storage-class = "GLACIER_IR"
[[buckets.photos.rules]]
keys = "small/**"
storage-class = "STANDARD"
tags = {}
sse = "AES256"
[[buckets.photos.rules]]
keys = "*.raw"
content-type = "image/x-raw"
kms_key_id = "raw"
"""


def test_the_last_rule_that_says_it_holds_and_those_of_the_bucket_are_last(path: Path) -> None:
    buckets = settled(path, TEXT).buckets()
    usual = Stored("STANDARD_IA", "aws:kms", "every")
    tags = (("team", "web"), ("cost", "1"))
    assert buckets.of("other").stored("a") == usual
    assert buckets.of("other").stored("small/a.jpg") == usual._replace(
        storage_class="GLACIER_IR", cache_control="max-age=1", tags=tags
    )
    photos = buckets.of("photos")
    assert photos.stored("d/a.png") == usual._replace(cache_control="max-age=1", tags=tags)
    assert photos.stored("small/a.jpg") == Stored("STANDARD", "AES256", cache_control="max-age=1")
    assert photos.stored("a.raw") == usual._replace(kms_key_id="raw", content_type="image/x-raw")


def test_what_the_command_line_says_holds_for_every_key(path: Path) -> None:
    found = settled(path, TEXT, **{"storage-class": "ONEZONE_IA"}).buckets().of("photos")
    assert found.stored("small/a.jpg").storage_class == "ONEZONE_IA"
    assert found.stored("small/a.jpg").sse == "AES256"
    text = '[[buckets."*".rules]]\nkeys = "a"\nkms-key-id = "k"\n'
    found = settled(path, text, sse="AES256").buckets().of("photos")
    assert found.stored("a") == Stored(sse="AES256")


KNOWN = ["keys", "tags", "storage-class", "sse", "kms-key-id", "content-type", "cache-control"]


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("storage-class = 'X'", 'has no keys; write keys = "*.jpg"'),
        ("keys = 1", "keys: must be a pattern, or a list of patterns"),
        ("keys = ''", "keys: a pattern of 0 characters matches no key"),
        ("keys = 's3://photos/*'",
         "keys: s3://photos/*: a pattern matches keys, without s3:// and bucket"),
        ("keys = '*'\ncache-contro = 'x'",
         "cache-contro: no such key; did you mean cache-control?"),
        ("keys = '*'\nacl = 'private'",
         f"acl: no such key; known are {', '.join(KNOWN)}"),
        ("keys = '*'\ncache-control = \"a\\r\\nb: c\"",
         "cache-control: 'a\\r\\nb: c': a header cannot contain that"),
        ("keys = '*'\ncontent-type = 'é'", "content-type: 'é': a header cannot contain that"),
        ("keys = '*'\nsse = 'aes'", "sse: aes is no sse; did you mean AES256?"),
        ("keys = '*'\nsse = 'AES256'\nkms-key-id = 'k'", "kms-key-id: needs sse = aws:kms"),
        ("keys = '*'\ntags = 'a=b'", 'tags: write them as { NAME = "VALUE" }'),
        ("keys = '*'\n[buckets.b.rules.tags]\n" + "\n".join(f"t{n} = 'x'" for n in range(11)),
         "tags: 11 tags; S3 takes at most 10"),
        ("keys = '*'\ntags = { a = '&' }",
         "tags: '&': S3 takes letters, digits, spaces and _.:/=+-@"),
        ("keys = '*'\ntags = { a = '" + "x" * 257 + "' }",
         "tags: a: S3 takes a name of 128 characters and a value of 256"),
    ],
)  # fmt: skip
def test_a_rule_that_is_none_says_which_and_why(path: Path, rule: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(path, f"[[buckets.b.rules]]\n{rule}\n")
    prefix = f"{path} [buckets.b] rule 1"
    assert str(caught.value).removeprefix(prefix).removeprefix(": ") == says


def test_rules_are_a_list_of_tables_and_know_of_the_keys_of_others(path: Path) -> None:
    with pytest.raises(ConfigError, match=r"write them as \[\[buckets\.b\.rules\]\]"):
        settled(path, "[buckets.b.rules]\nkeys = '*'\n")
    key = path.parent / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    text = f"[buckets.b]\nsse-c-key-file = '{key}'\n[[buckets.b.rules]]\nkeys = '*'\nsse = 'AES256'"
    with pytest.raises(ConfigError, match="sse: cannot be combined with sse-c-key-file"):
        settled(path, text).buckets()


def test_a_class_that_is_probably_misspelt_is_doubted_where_it_was_written(path: Path) -> None:
    text = """
[buckets."*"]
storage-class = "STANDARD"
[buckets.photos]
storage-class = "FAST"
[[buckets."*".rules]]
keys = "a"
storage-class = "STANDRAD_IA"
[[buckets."*".rules]]
keys = "b"
storage-class = "glacier-ir"
"""
    here, said = f"{path} [buckets.*]", "is no storage class of S3; did you mean"
    near = [
        f"{here} rule 1: storage-class: STANDRAD_IA {said} STANDARD_IA?",
        f"{here} rule 2: storage-class: glacier-ir {said} GLACIER_IR?",
    ]
    unknown = "storage-class: FAST is no storage class of S3 that mimicfs knows"
    assert sorted(settled(path, text).doubts()) == [*near, f"{path} [buckets.photos]: {unknown}"]
    assert sorted(settled(path, text, provider="ceph").doubts()) == near
    assert settled(path, text, **{"endpoint-url": "http://h", "storage-class": "X"}).doubts() == []


def test_a_key_of_kms_that_is_none_of_aws_is_doubted_where_it_was_written(path: Path) -> None:
    text = """
[buckets."*"]
kms-key-id = "foo"
[buckets.a]
kms-key-id = "alias/foo"
[buckets.b]
kms-key-id = "1234abcd-12ab-34cd-56ef-1234567890ab"
[buckets.c]
kms-key-id = "arn:aws-cn:kms:cn-north-1:111122223333:key/mrk-1234abcd12ab34cd56ef1234567890ab"
[[buckets.b.rules]]
keys = "a"
kms-key-id = "1234abcd"
"""
    said = "is no id, ARN or alias of a key in AWS; an alias is written alias/NAME"
    assert settled(path, text).doubts() == [
        f"{path} [buckets.*]: kms-key-id: foo {said}",
        f"{path} [buckets.b] rule 1: kms-key-id: 1234abcd {said}",
    ]
    assert settled(path, text, provider="minio").doubts() == []
