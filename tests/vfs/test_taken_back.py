"""A file that another mount moves or deletes while this one renames it is at one place: the copy
that was made here goes again, if it is certain that nobody else has touched it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.mounts import wait_until
from support.proxy import Drop, Fail, Hold, Lose, Proxy, Request, Rule
from support.sharing import Sharing

from mimicfs.errors import PosixError
from mimicfs.posix import ROOT_INO, NewAttr
from mimicfs.s3.requests.conditions import Honoured
from mimicfs.sync import Syncer

pytestmark = pytest.mark.parametrize("server", ["moto"], indirect=True)


@pytest.fixture
def new(proxy: Proxy, bucket: str, client: Any, tmp_path: Path) -> Iterator[list[Sharing]]:
    for key in ("f", "d/s/g"):
        client.put_object(Bucket=bucket, Key=key, Body=key.encode())
    with ExitStack() as stack:
        store = tmp_path / "store.db"
        two = [Sharing(store, tmp_path / name, bucket, proxy.url, stack) for name in ("one", "two")]
        Syncer(two[0].mimicdb, two[0].fs._s3).sync(bucket)
        yield two


@pytest.fixture
def two(new: list[Sharing], bucket: str) -> list[Sharing]:
    for each in new:
        each.fs._s3.conditions.honoured(bucket, "f")
    return new


def _stored(client: Any, bucket: str) -> dict[str, bytes]:
    listed = client.list_objects_v2(Bucket=bucket).get("Contents", [])
    return {
        item["Key"]: client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        for item in listed
    }


def _asks(kind: str, key: str) -> Callable[[Any], bool]:
    return lambda request: bool(request.kind == kind and request.key == key)


def _meet(two: list[Sharing], proxy: Proxy, call: str, *meanwhile: Callable[[], object]) -> str:
    """Let the second mount do *call*, and do *meanwhile* while the answer to its COPY to d/f is on
    its way; return what came of it."""
    copied = Hold(_asks("COPY", "d/f"), answers=True)
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        running = pool.submit(two[1].call, call)
        assert copied.reached.wait(10)
        for do in meanwhile:
            do()
        copied.release()
        return running.result(20)


def test_a_file_that_another_mount_has_moved_meanwhile_is_where_that_has_put_it(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    said = _meet(two, proxy, "rename f d/f", lambda: two[0].rename("f", "d/s/g"))
    assert said == "ENOENT"
    assert _stored(client, bucket) == {"d/s/g": b"f"}
    assert two[0].mimicdb.intents.all_unsettled(bucket) == []
    assert two[0].claims(bucket) is None


def test_a_file_whose_removal_by_another_mount_is_under_way_is_where_that_puts_it(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, other = two
    deleted = Hold(_asks("DELETE", "f"))
    with proxy.rule(deleted), ThreadPoolExecutor(2) as pool:
        first = pool.submit(one.rename, "f", "d/s/g")
        assert deleted.reached.wait(10)
        [before] = one.mimicdb.intents.unsettled(bucket, "f")
        second = pool.submit(other.rename, "f", "d/f")
        wait_until(lambda: one.mimicdb.intents.unsettled(bucket, "f") != [before])
        deleted.release()
        assert [first.result(20), second.result(20)] == ["done", "ENOENT"]
    assert _stored(client, bucket) == {"d/s/g": b"f"}


def test_a_copy_that_has_made_a_directory_again_takes_that_along(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, other = two
    directory = other.fs.lookup(other.caller, ROOT_INO, b"d").ino
    assert one.rename("d", "e") == "done"
    copied = Hold(_asks("COPY", "d/f"), answers=True)
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        places = (ROOT_INO, b"f", directory, b"f")
        running = pool.submit(other.fs.rename, other.caller, *places, 0)
        assert copied.reached.wait(10)
        assert one.rename("f", "g") == "done"
        copied.release()
        with pytest.raises(PosixError, match="others have moved or deleted it"):
            running.result(20)
    assert _stored(client, bucket) == {"e/s/g": b"d/s/g", "g": b"f"}
    assert not one.mimicdb.has_still(bucket, "d/")


def test_a_mount_that_does_not_know_yet_how_the_server_deletes_says_what_it_deletes_too(
    new: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, _ = new
    copied = Hold(_asks("COPY", "d/s/g"), answers=True)
    deletes = Hold(lambda request: request.kind in {"HEAD", "DELETE"} and request.key == "f")
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        first = pool.submit(one.rename, "f", "d/s/g")
        assert copied.reached.wait(10)
        with proxy.rule(deletes):
            copied.release()
            assert deletes.reached.wait(10)
            deletes.matches = lambda _: False
            assert one.mimicdb.intents.unsettled(bucket, "f")
            assert _meet(new, proxy, "rename f d/f", deletes.release) == "ENOENT"
        assert first.result(20) == "done"
    assert _stored(client, bucket) == {"d/s/g": b"f"}


def test_a_mount_that_cannot_find_out_how_the_server_deletes_moves_a_file_all_the_same(
    new: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    with proxy.rule(Fail(lambda request: request.kind == "PUT", 403, "AccessDenied")):
        assert new[0].rename("f", "d/f") == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}


def _meet_unheard(
    two: list[Sharing], proxy: Proxy, meanwhile: Callable[[], object], first: type[Rule] = Lose
) -> str:
    """Let the second mount rename f to d/f. The *first* of its COPYs is not answered, and before S3
    gets the second one, do *meanwhile*. Return what came of it."""
    copies = list[Request]()

    def is_first(request: Request) -> bool:
        if _asks("COPY", "d/f")(request):
            copies.append(request)
        return copies[:1] == [request]

    again = Hold(lambda request: copies[1:2] == [request])
    lost = first(is_first)
    with proxy.rule(lost), proxy.rule(again), ThreadPoolExecutor(1) as pool:
        running = pool.submit(two[1].rename, "f", "d/f")
        if isinstance(lost, Drop):
            assert lost.reached.wait(10)
            lost.release()
        assert again.reached.wait(20)
        meanwhile()
        again.release()
        return running.result(30)


def test_a_copy_whose_answer_was_lost_is_taken_back_too(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    said = _meet_unheard(two, proxy, lambda: two[0].rename("f", "d/s/g"))
    assert said == "ENOENT"
    assert _stored(client, bucket) == {"d/s/g": b"f"}
    assert two[0].mimicdb.intents.all_unsettled(bucket) == []
    assert two[0].claims(bucket) is None


def test_a_file_that_was_not_copied_and_that_another_mount_has_moved_is_where_that_has_put_it(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    said = _meet_unheard(two, proxy, lambda: two[0].rename("f", "d/s/g"), Drop)
    assert said == "ENOENT"
    assert _stored(client, bucket) == {"d/s/g": b"f"}
    assert two[0].mimicdb.intents.all_unsettled(bucket) == []


def test_a_rename_whose_copy_has_replaced_something_is_done_though_the_answer_was_lost(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    two[0].created("d/f", b"before")()
    assert _meet_unheard(two, proxy, lambda: two[0].rename("f", "d/s/g")) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"f"}


def test_what_another_mount_has_moved_to_the_name_of_a_copy_without_an_answer_stays(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    assert _meet_unheard(two, proxy, lambda: two[0].rename("f", "d/f"), Drop) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}


def test_what_others_make_anew_replaces_no_copy_whose_original_went_without_an_answer(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    deletions = list[Request]()

    def is_first(request: Request) -> bool:
        if _asks("DELETE", "f")(request):
            deletions.append(request)
        return deletions[:1] == [request]

    again = Hold(lambda request: deletions[1:2] == [request])
    with proxy.rule(Lose(is_first)), proxy.rule(again), ThreadPoolExecutor(1) as pool:
        running = pool.submit(two[1].rename, "f", "d/f")
        assert again.reached.wait(20)
        client.put_object(Bucket=bucket, Key="f", Body=b"anew")
        again.release()
        assert running.result(30) == "EIO"  # after ESTALE the kernel calls once more
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g", "f": b"anew"}
    assert two[0].mimicdb.intents.all_unsettled(bucket) == []


def test_a_file_that_another_mount_has_deleted_meanwhile_is_gone(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    assert _meet(two, proxy, "rename f d/f", lambda: two[0].call("unlink f")) == "ENOENT"
    assert _stored(client, bucket) == {"d/s/g": b"d/s/g"}


def test_a_directory_stays_though_the_copy_in_it_was_its_last_name(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, other = two
    said = _meet(
        two,
        proxy,
        "rename f d/f",
        lambda: one.rename("d/s/g", "g"),
        lambda: one.call("rmdir d/s"),
        lambda: one.call("unlink f"),
    )
    assert said == "ENOENT"
    assert _stored(client, bucket) == {"g": b"d/s/g"}
    assert other.fs.lookup(other.caller, ROOT_INO, b"d")


def _meet_noted(two: list[Sharing], meanwhile: Callable[[], object]) -> str:
    """Let the second mount rename f to d/f, and do *meanwhile* when its copy is in the store.
    Return what came of it."""
    mover = two[1].fs._leaving._mover
    begin = mover._begin_deletion

    def behind_the_copy(*about: Any) -> Any:
        patch.undo()
        meanwhile()
        return begin(*about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mover, "_begin_deletion", behind_the_copy)
        return two[1].rename("f", "d/f")


def _moved_there(one: Sharing) -> None:
    one.rename("f", "d/f")


def _moved_away_and_there(one: Sharing) -> None:
    one.rename("d/f", "d/s/n")
    one.rename("f", "d/f")


def _appended(one: Sharing) -> None:
    d = one.fs.lookup(one.caller, ROOT_INO, b"d").ino
    f = one.fs.lookup(one.caller, d, b"f").ino
    opened = one.fs.open(one.caller, f, os.O_WRONLY | os.O_APPEND)
    one.fs.write(one.caller, opened.handle, 1, memoryview(b"2"), append=True)
    one.fs.flush(one.caller, opened.handle)
    one.fs.release(opened.handle)
    one.call("unlink f")


# No ETag shows whose copy it is in the first two.
@pytest.mark.parametrize(
    ("meanwhile", "body"),
    [(_moved_there, b"f"), (_moved_away_and_there, b"f"), (_appended, b"f2")],
)
def test_a_copy_that_another_mount_has_touched_stays(
    two: list[Sharing],
    bucket: str,
    client: Any,
    meanwhile: Callable[[Sharing], None],
    body: bytes,
) -> None:
    assert _meet_noted(two, lambda: meanwhile(two[0])) == "done"
    found = _stored(client, bucket)
    assert found["d/f"] == body
    assert "f" not in found


def test_a_copy_whose_attributes_another_mount_is_changing_stays(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, _ = two
    changed = Hold(_asks("COPY", "d/f"))

    def change() -> None:
        d = one.fs.lookup(one.caller, ROOT_INO, b"d").ino
        f = one.fs.lookup(one.caller, d, b"f").ino
        one.fs.setattr(one.caller, f, NewAttr(mode=0o640), None)

    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:

        def meanwhile() -> None:
            one.rename("f", "d/s/g")
            stack.enter_context(proxy.rule(changed))
            changing = pool.submit(change)
            stack.callback(changing.result, 20)
            stack.callback(changed.release)
            assert changed.reached.wait(10)

        assert _meet_noted(two, meanwhile) == "done"
    assert client.head_object(Bucket=bucket, Key="d/f")["Metadata"]["mode"] == "33184"


def test_a_copy_that_has_replaced_something_stays(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    two[0].created("d/f", b"before")()
    assert _meet(two, proxy, "rename f d/f", lambda: two[0].call("unlink f")) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}


def test_a_copy_stays_where_the_server_does_not_look_at_the_etag_of_a_deletion(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    two[1].fs._s3.conditions._found[bucket] = Honoured(match="quoted", absent=True)
    assert _meet(two, proxy, "rename f d/f", lambda: two[0].call("unlink f")) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}


def test_a_copy_whose_deletion_s3_denies_stays(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    with proxy.rule(Fail(_asks("DELETE", "d/f"), 403, "AccessDenied")):
        assert _meet(two, proxy, "rename f d/f", lambda: two[0].call("unlink f")) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}


def test_whoever_moves_something_to_the_name_of_a_copy_that_is_taken_back_waits(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    asked = Event()
    rows = one.fs._leaving._claims.rows

    def looked(bucket: str) -> Any:  # while somebody is waited for
        asked.set()
        return rows(bucket)

    monkeypatch.setattr(one.fs._leaving._claims, "rows", looked)
    deleted = Hold(_asks("DELETE", "d/f"))
    with proxy.rule(deleted), ThreadPoolExecutor(2) as pool:
        running = pool.submit(_meet, two, proxy, "rename f d/f", lambda: one.call("unlink f"))
        assert deleted.reached.wait(10)
        mover = pool.submit(one.rename, "d/s/g", "d/f")
        assert asked.wait(10)
        deleted.release()
        assert [running.result(20), mover.result(20)] == ["ENOENT", "done"]
    assert _stored(client, bucket) == {"d/f": b"d/s/g"}


def test_a_rename_of_a_file_goes_on_though_its_caller_does_not_wait(
    two: list[Sharing], proxy: Proxy, bucket: str, client: Any
) -> None:
    one, _ = two
    copied = Hold(_asks("COPY", "d/f"))
    with proxy.rule(copied), ThreadPoolExecutor(1) as pool:
        running = pool.submit(one.rename, "f", "d/f")
        assert copied.reached.wait(10)
        one.caller.cancellation.cancel()
        copied.release()
        assert running.result(20) == "done"
    assert _stored(client, bucket) == {"d/f": b"f", "d/s/g": b"d/s/g"}
