"""Two mounts that rename one directory, or one in another, or to one place, take turns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Hold, Proxy
from support.sharing import Sharing

from mimicfs.entry import pages
from mimicfs.errors import StoreUnavailable
from mimicfs.sync import Syncer
from mimicfs.vfs import claims, renames

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)

_NOTE = "renames"
_CALLS = ("mkdir", "symlink", "unlink", "rmdir", "rename")


@pytest.fixture
def two(proxy: Proxy, bucket: str, client: Any, tmp_path: Path) -> Iterator[list[Sharing]]:
    for key in ("d/a", "d/s/b", "x/c"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    with ExitStack() as stack:
        store = tmp_path / "store.db"
        two = [Sharing(store, tmp_path / name, bucket, proxy.url, stack) for name in ("one", "two")]
        Syncer(two[0].mimicdb, two[0].fs._s3).sync(bucket)
        yield two


@pytest.fixture
def held(proxy: Proxy) -> Iterator[Hold]:
    """Copies wait until they are let go."""
    hold = Hold(lambda request: request.kind == "COPY")
    with proxy.rule(hold):
        yield hold
        hold.release()


def _keys(client: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]


def _met(
    two: list[Sharing], held: Hold, monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> list[Future[str]]:
    """Begin the rename *first*, and then, while that copies, *then*."""
    one, other = two
    pool = ThreadPoolExecutor(2)
    running = [pool.submit(one.rename, *first.split())]
    assert held.reached.wait(60)
    looks, asked = other.mimicdb.note, list[str]()

    def note(bucket: str, name: str) -> str | None:  # asked while somebody is waited for
        asked.append(name)
        return looks(bucket, name)

    monkeypatch.setattr(other.mimicdb, "note", note)
    call = other.call if then.startswith(_CALLS) else lambda then: other.rename(*then.split())
    running.append(pool.submit(call, then))
    wait_until(lambda: asked.count(_NOTE) > 1 or held.seen > 2)
    pool.shutdown(wait=False)
    return running


@pytest.mark.parametrize(
    ("then", "said", "left"),
    [
        ("d f", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("d/s t", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("x e", "ENOTEMPTY", ["e/a", "e/s/b", "x/c"]),
        ("x y", "done", ["e/a", "e/s/b", "y/c"]),
    ],
)
def test_of_two_renames_that_meet_the_second_finds_what_the_first_has_left(
    two: list[Sharing],
    held: Hold,
    bucket: str,
    client: Any,
    then: str,
    said: str,
    left: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = _met(two, held, monkeypatch, "d e", then)
    held.release()
    assert [each.result(20) for each in running] == ["done", said]
    assert _keys(client, bucket) == left
    assert two[0].claims(bucket) is None


@pytest.mark.parametrize(
    ("then", "said", "left"),
    [
        ("rename x/c d/s/c", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("rename d/a d/n", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("rename d/s/b x/b", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("mkdir d/s/n", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("symlink d/n", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("unlink d/a", "ENOENT", ["e/a", "e/s/b", "x/c"]),
        ("rename x/c x/d", "done", ["e/a", "e/s/b", "x/d"]),
        ("unlink x/c", "done", ["e/a", "e/s/b"]),
    ],
)
def test_whoever_changes_a_name_in_a_directory_that_is_being_renamed_waits_for_that(
    two: list[Sharing],
    held: Hold,
    bucket: str,
    client: Any,
    then: str,
    said: str,
    left: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if said == "done":
        held.matches = lambda request: request.kind == "COPY" and request.key.startswith("e/")
        assert [each.result(20) for each in _met_and_done(two, held, then)] == ["done", "done"]
    else:
        running = _met(two, held, monkeypatch, "d e", then)
        held.release()
        assert [each.result(20) for each in running] == ["done", said]
    assert _keys(client, bucket) == left
    assert two[0].mimicdb.intents.all_unsettled(bucket) == []


def _met_and_done(two: list[Sharing], held: Hold, then: str) -> list[Future[str]]:
    """Do *then* beside a rename of d to e, which goes on afterwards."""
    one, other = two
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(one.rename, "d", "e")]
        assert held.reached.wait(60)
        running.append(pool.submit(other.call, then))
        running[1].result(20)
        held.release()
    return running


@pytest.mark.parametrize(
    ("request_of_rename", "answers"), [("COPY", False), ("POST", False), ("POST", True)]
)
def test_a_new_file_that_is_closed_while_its_directory_is_renamed_goes_along(
    two: list[Sharing],
    proxy: Proxy,
    bucket: str,
    client: Any,
    request_of_rename: str,
    answers: bool,
) -> None:
    one, other = two
    hold = Hold(lambda request: request.kind == request_of_rename, answers=answers)
    with proxy.rule(hold), ThreadPoolExecutor(1) as pool:
        close = other.created("d/s/n", b"new")
        renaming = pool.submit(one.rename, "d", "e")
        assert hold.reached.wait(60)
        close()  # waits for nobody
        hold.release()
        assert renaming.result(20) == "done"
    assert _keys(client, bucket) == ["e/a", "e/s/b", "e/s/n", "x/c"]
    assert client.get_object(Bucket=bucket, Key="e/s/n")["Body"].read() == b"new"


def test_whoever_was_taken_for_dead_takes_nothing_out_of_what_others_have_made_anew(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = two
    deleting = Hold(lambda request: request.kind == "POST", answers=True)
    copying = Hold(lambda request: request.kind == "COPY" and request.key == "e/n")
    with proxy.rule(deleting), proxy.rule(copying), ThreadPoolExecutor(1) as pool:
        close = other.created("d/n", b"new")
        renaming = pool.submit(one.rename, "d", "e")
        assert deleting.reached.wait(60)
        close()
        deleting.release()
        assert copying.reached.wait(60)  # it stands still here
        one.mimicdb.set_note(bucket, _NOTE, None)
        assert other.call("unlink d/n") == "done"
        other.created("d/n", b"another")()
        copying.release()
        assert renaming.result(20) == "EIO"
    assert client.get_object(Bucket=bucket, Key="d/n")["Body"].read() == b"another"
    caplog.clear()


def test_a_link_that_others_have_removed_at_once_was_made(
    two: list[Sharing], bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    stored, said = one.fs._making._stored, list[str]()
    make = stored.make_link

    def make_and_remove(*what: Any, **how: Any) -> Any:
        made = make(*what, **how)
        said.append(other.call("unlink x/l"))
        return made

    monkeypatch.setattr(stored, "make_link", make_and_remove)
    assert (one.call("symlink x/l"), said) == ("done", ["done"])
    assert _keys(client, bucket) == ["d/a", "d/s/b", "x/c"]


def test_a_name_in_a_directory_whose_rename_fails_is_changed_then(
    two: list[Sharing], held: Hold, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = _met(two, held, monkeypatch, "d e", "unlink d/a")
    two[0].caller.cancellation.cancel()
    held.release()
    assert [each.result(20) for each in running] == ["interrupted", "done"]
    assert _keys(client, bucket) == ["d/s/b", "x/c"]


def test_a_rename_that_waits_for_another_can_be_interrupted(
    two: list[Sharing],
    held: Hold,
    bucket: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running = _met(two, held, monkeypatch, "d e", "d f")
    two[1].caller.cancellation.cancel()
    assert running[1].result(10) == "interrupted"
    held.release()
    assert running[0].result(20) == "done"
    assert _keys(client, bucket) == ["e/a", "e/s/b", "x/c"]


def test_a_claim_of_a_dead_mount_is_waited_for_no_longer(
    two: list[Sharing], bucket: str, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    two[0].mimicdb.set_note(bucket, _NOTE, '[["dead", "1", "d/", "e/"]]')
    assert two[1].rename("d", "f") == "done"
    assert "it is of a dead mount" in caplog.text
    assert _keys(client, bucket) == ["f/a", "f/s/b", "x/c"]
    assert two[0].claims(bucket) is None


def test_whoever_was_taken_for_dead_looks_again_before_anything_is_deleted(
    two: list[Sharing], bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    note = one.mimicdb.note

    def meanwhile(*of: str) -> str | None:  # all is copied
        monkeypatch.undo()
        assert note(*of) is not None
        one.mimicdb.set_note(bucket, _NOTE, None)  # as others do with what a dead mount claimed
        assert other.rename("d", "f") == "done"
        return note(*of)

    monkeypatch.setattr(one.mimicdb, "note", meanwhile)
    assert one.rename("d", "e") == "ENOENT"
    assert _keys(client, bucket) == ["f/a", "f/s/b", "x/c"]
    assert other.claims(bucket) is None


def _one_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renames, "pages", lambda read: pages(lambda after: read(after)[:1], size=1))


@pytest.fixture
def deleting(two: list[Sharing], proxy: Proxy, bucket: str) -> Callable[..., tuple[str, str]]:
    """Call a function while one mount, which renames d to e and is not stopped for the store, waits
    for its first deletion; return what comes of both."""
    one = two[0]
    assert one.rename("x", "y") == "done"  # it knows then how the server deletes

    def meet(meanwhile: Callable[[], str], *, answers: bool) -> tuple[str, str]:
        kinds = ("POST", "DELETE")
        stopped = Hold(lambda request: request.kind in kinds, answers=answers)
        with proxy.rule(stopped), ThreadPoolExecutor(1) as pool:
            running = pool.submit(one.rename, "d", "e")
            assert stopped.reached.wait(60)
            stopped.matches = lambda _: False
            one.mimicdb.set_note(bucket, _NOTE, None)  # as others do with what a dead mount claimed
            said = meanwhile()
            stopped.release()
            return running.result(20), said

    return meet


def test_whoever_was_taken_for_dead_while_it_deletes_says_that_others_have_renamed_it_too(
    two: list[Sharing],
    deleting: Callable[..., tuple[str, str]],
    bucket: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It stops there: what it has not deleted is the other one's."""
    _one_a_page(monkeypatch)
    assert deleting(lambda: two[1].rename("d", "f"), answers=True) == ("EIO", "done")
    assert _keys(client, bucket) == ["e/a", "e/s/b", "f/s/b", "y/c"]
    assert "others have renamed" in caplog.text
    caplog.clear()


def test_whoever_was_taken_for_dead_while_it_deletes_goes_on_where_nobody_has_renamed_it(
    two: list[Sharing],
    deleting: Callable[..., tuple[str, str]],
    bucket: str,
    client: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _one_a_page(monkeypatch)
    assert deleting(lambda: "nothing", answers=True) == ("done", "nothing")
    assert _keys(client, bucket) == ["e/a", "e/s/b", "y/c"]
    assert two[0].claims(bucket) is None


def test_whoever_was_taken_for_dead_at_its_last_deletion_does_not_say_that_it_is_done(
    two: list[Sharing],
    deleting: Callable[..., tuple[str, str]],
    bucket: str,
    client: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = two

    def meanwhile() -> str:
        one.mimicdb.member.beat_s -= 60  # it stood still
        return other.rename("d", "f")

    assert deleting(meanwhile, answers=False) == ("EIO", "done")
    assert _keys(client, bucket) == ["e/a", "e/s/b", "f/a", "f/s/b", "y/c"]
    caplog.clear()


def _end_untold(one: Sharing, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rename x to y; the store does not take that it has ended."""
    swap, taken = one.mimicdb.swap_note, list[str]()

    def away(*asked: Any) -> Any:
        if taken and asked[-1] is None:
            raise StoreUnavailable("away")
        taken.append("claim")
        return swap(*asked)

    monkeypatch.setattr(one.mimicdb, "swap_note", away)
    assert one.rename("x", "y") == "done"
    assert one.claims(bucket) is not None
    monkeypatch.undo()


def test_an_end_that_the_store_did_not_take_is_said_with_the_next_beat(
    two: list[Sharing], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    _end_untold(one, bucket, monkeypatch)
    for call in one.mimicdb.member.beaten:
        call()
    assert one.claims(bucket) is None


def test_an_end_that_the_store_did_not_take_is_said_when_its_own_mount_waits_for_it(
    two: list[Sharing], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    one.mimicdb.member.beaten.clear()  # as in a store that nobody shares
    _end_untold(one, bucket, monkeypatch)
    monkeypatch.setattr(claims, "_ALIVE_S", 0.0)
    assert one.rename("d", "y/d") == "done"
    assert one.claims(bucket) is None


@pytest.mark.parametrize("waits", ["the mount itself", "another"])
def test_a_claim_that_has_ended_and_that_the_store_has_again_is_waited_for_no_longer(
    two: list[Sharing], bucket: str, client: Any, waits: str
) -> None:
    one, other = two
    assert one.rename("x", "y") == "done"
    row = [one.mimicdb.member.id, "1", "y/", "x/"]  # a replica that lagged was promoted
    one.mimicdb.set_note(bucket, _NOTE, json.dumps([row]))
    if waits == "another":
        one.mimicdb.member.epoch_changes += 1
        assert other.rename("y", "x") == "done"
    else:
        one.mimicdb.member.beaten.clear()
        assert one.rename("y", "x") == "done"
    assert _keys(client, bucket) == ["d/a", "d/s/b", "x/c"]
    assert one.claims(bucket) is None
