"""`mimicfs status` and the page show one list of what somebody should look at."""

from typing import Any

import pytest
from page.test_document import Elements

from mimicfs.admin.troubles import troubles
from mimicfs.cli import watching
from mimicfs.page.document import View, rendered

MOUNT = {"mountpoint": "/mnt", "target": "s3://b", "endpoint": "e", "store": "sqlite:///s",
         "pid": 1, "started_ns": 10**18, "alive": True, "page": "", "read_only": False,
         "error": "", "buckets": []}  # fmt: skip
# The parts of a mount in which all is well.
WELL: dict[str, Any] = {
    "s3": {"requests": {}, "errors": {}, "calls": {}, "slow": 0, "seconds": {}, "bytes_in": 0,
           "bytes_out": 0, "connections_max": 32,
           "limits": {"download_limit": "off", "upload_limit": "off", "request_rate": 0,
                      "max_requests_per_day": 0, "requests_today": 0}},
    "files": {"open": 0, "unsaved": 0, "unsaved_bytes": 0, "read_ahead_bytes": 0,
              "read_ahead_max": 0, "recovered": 0,
              "write_back": {"files": 0, "bytes": 0, "oldest_s": 0.0, "error": ""}},
    "sync": {"running": [], "failed": []},
    "events": {"source": "sqs:q", "state": "listening", "messages": 5, "echoes": 0, "heads": 0,
               "lists": 0, "lag_s": 0.0, "error": "", "put_aside": 0, "another_store": False,
               "configured": {"b": "yes"}, "told_until_ns": {}},
    "reconcile": {"swept": 0, "error": "", "lists_a_day": 7.2, "swept_until_ns": {}},
    "sharing": {"away": 0, "contended": 0, "resolved": 0, "untold": 0, "epoch_changes": 0},
    "locks": {"held": 2, "waiting": 1, "lost": 0},
}  # fmt: skip
DAY = {**WELL["s3"]["limits"], "max_requests_per_day": 9, "requests_today": 9}
WRONG = [
    ("s3", {"limits": DAY}, "All 9 requests of today are sent; S3 is not asked any more."),
    ("files", {"recovered": 2}, "2 files in staging/recovered: S3 does not have them."),
    ("files", {"write_back": {**WELL["files"]["write_back"], "error": "denied"}},
     "Uploads fail: denied"),
    ("sync", {"failed": [{"bucket": "b", "error": "denied"}]},
     "The last sync of s3://b/ failed: denied"),
    ("events", {"error": "no queue"}, "Nothing is heard of changes: no queue"),
    ("events", {"untold": {"b": "no rule"}},
     "S3 does not tell of all in s3://b, or nobody can see it: no rule"),
    ("events", {"another_store": True},
     "Another store takes messages from the same source: each misses some."),
    ("events", {"put_aside": 1}, "1 message in events-aside.jsonl"),
    ("reconcile", {"error": "denied"}, "Listing again (--reconcile) fails: denied"),
    ("sharing", {"away": 1}, "The store does not answer: files are read, changes are refused."),
    ("sharing", {"epoch_changes": 1},
     "The store may have lost changes (1 time); all was asked of S3 anew."),
    ("locks", {"lost": 1}, "1 lock of files may be others' by now."),
]  # fmt: skip


def page(figures):
    return Elements(rendered(View(figures, [], [MOUNT], [], 1_200_000_000.0))).texts


def status(figures):
    return list(watching._lines({**MOUNT, **figures}))


def test_where_all_is_well_both_say_nothing_and_status_shows_every_part():
    assert "All is well" in page(WELL)
    lines = status(WELL)
    assert [line for line in lines if "LOOK AT" in line] == []
    assert "  events   listening to sqs:q; 5 messages: 0 of what was known, 0 HEAD, 0 LIST; " in (
        "".join(lines)
    )
    assert "  sweep    0 parts listed again; at least 7 LISTs a day" in lines
    assert "  locks    2 locks of files held for all mounts, 1 waited for" in lines


@pytest.mark.parametrize(("name", "wrong", "what"), WRONG)
def test_what_status_warns_of_is_on_the_page(name, wrong, what):
    figures = {**WELL, name: {**WELL[name], **wrong}}
    ((_, told, advice),) = troubles(figures, [])
    texts, lines = page(figures), status(figures)
    assert told == what
    assert {what, advice} <= set(texts) and "All is well" not in texts
    at = lines.index(f"  LOOK AT  {what}")
    assert lines[at + 1] == f"           {advice}"


@pytest.mark.parametrize("name", [*WELL, "cache", "follower", "mirror"])
def test_a_part_that_does_not_answer_is_shown_by_both(name):
    figures = {**WELL, name: {"error": "does not answer"}}
    assert f"The part “{name}” fails: does not answer" in page(figures)
    lines = status(figures)
    assert f"  {name}: does not answer" in lines or lines[-1] == "    does not answer"


def test_no_word_of_a_server_controls_the_terminal_of_who_asks_for_the_status():
    """U+009B begins a command of a terminal as ESC [ does, and XML may have it."""
    figures = {**WELL, "s3": {**WELL["s3"], "errors": {"\x9b2JDenied": 1}}}
    told = {"told_until_ns": {"\x9b2Jb": 1}}
    shown = watching._shown([{**MOUNT, **figures, "events": {**WELL["events"], **told}}])
    assert "\x9b" not in shown
    assert "S3 said  1 \\x9b2JDenied" in shown and "    \\x9b2Jb: S3's" in shown


def test_status_warns_of_nothing_by_itself():
    """Each part that is wrong adds what the list has, and the figures that belong to it."""
    heads = {line[:11] for name, wrong, _ in WRONG
             for line in status({**WELL, name: {**WELL[name], **wrong}})}  # fmt: skip
    assert {head for head in heads if head.strip().isupper()} == {"  LOOK AT  ", "  S3       "}
