"""The scripts (lua.py) that read or change a directory: one script is one step, all or nothing.
Several scripts go out in one round trip, and commands with them (`together`); a cluster is asked
one after the other.

`transactions.py` does the same where scripts are denied; the tests of the promises run over both.

While a cluster moves the keys of a bucket to another node, some are here and some are there. A node
lets a script run all the same if none of the keys that the script was given is at the other node.
So each script is given two: the tag, which is no key, and TAG:meta. Whichever node is asked, one of
these is missing there, and the node answers TRYAGAIN until all keys have moved.

Threading: like the client of redis-py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from redis.cluster import RedisCluster
from redis.exceptions import ClusterDownError, ClusterError, NoScriptError, ResponseError

from mimicfs.backends import NoteSwap
from mimicfs.backends.loglines import WIDE_CHANGE
from mimicfs.backends.pending import fresh
from mimicfs.backends.redis import lua
from mimicfs.backends.redis.layout import (
    AppliedBatch,
    BegunKey,
    ChangeBatch,
    MarkedScope,
    RedisCommand,
    SeenKey,
)
from mimicfs.entry import Scope
from mimicfs.errors import LogTrimmed

_MOVES_S = 5.0  # how long a script waits for keys that move

_Call = tuple[Any, tuple[Any, ...]]  # a script, and its arguments


class Scripts:
    """The steps, each a script."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._try = client.register_script(lua.TRY)
        self._records = client.register_script(lua.LIBRARY + lua.RECORDS)
        self._page = client.register_script(lua.LIBRARY + lua.PAGE)
        self._apply = client.register_script(lua.LIBRARY + lua.APPLY)
        self._begin = client.register_script(lua.LIBRARY + lua.BEGUN + lua.BEGIN)
        self._begin_seeing = client.register_script(lua.LIBRARY + lua.BEGUN + lua.BEGIN_SEEING)
        self._end = client.register_script(lua.LIBRARY + lua.END)
        self._enlist = client.register_script(lua.LIBRARY + lua.ENLIST)
        self._mark = client.register_script(lua.LIBRARY + lua.MARK)
        self._swap = client.register_script(lua.LIBRARY + lua.SWAP)

    def try_all(self, tag: str) -> None:
        """Raise redis-py's error if scripts are denied, or a command that they use."""
        self._run(self._try, tag)

    def records(self, tag: str, directory: str, names: list[str]) -> list[bytes | None]:
        """Return the record of each of *names* in *directory*; None: there is none."""
        found: list[bytes | None] = self._run(self._records, tag, directory, *names)
        return found

    def page(
        self, tag: str, directory: str, low: bytes, high: bytes, limit: int
    ) -> list[tuple[bytes, bytes]]:
        """Return names and records, in no order: among them the first *limit* names of
        *directory* from *low* up to *high*, or all of these."""
        found = self._run(self._page, tag, directory, low, high, limit)
        return list(zip(found[::2], found[1::2], strict=True))

    def records_of(
        self, tag: str, wanted: Sequence[tuple[str, list[str]]]
    ) -> list[list[bytes | None]]:
        """Do as `records`, for names of several directories, in one round trip."""
        asked = [(self._records, (directory, *names)) for directory, names in wanted]
        found: list[list[bytes | None]] = self.together(tag, asked)
        return found

    def pages(
        self,
        tag: str,
        directories: Sequence[str],
        high: bytes,
        limit: int,
        before: Sequence[RedisCommand],
        after: RedisCommand,
    ) -> tuple[list[Any], list[list[tuple[bytes, bytes]]], Any]:
        """Return pages as `page` does, of several directories from their beginning; and the answers
        to commands: those *before* that, and the one *after* it."""
        asked = [(self._page, (each, b"", high, limit)) for each in directories]
        *answers, last = self.together(tag, [*before, *asked, after])
        first, found = answers[: len(before)], answers[len(before) :]
        return first, [list(zip(each[::2], each[1::2], strict=True)) for each in found], last

    def apply(self, tag: str, batch: ChangeBatch) -> AppliedBatch:
        """Make the changes of *batch*. Raises LogTrimmed."""
        try:
            known, left, before, *names = self._run(self._apply, tag, *_args_of(batch))
        except ResponseError as exc:
            if "LOGTRIMMED" in str(exc):
                raise LogTrimmed.after(batch.since) from exc
            raise
        made, gone = ([name.decode() for name in each] for each in names)
        return AppliedBatch(bool(known), {key.decode() for key in left}, before, made, gone)

    def begin(
        self, tag: str, keys: Sequence[str], token: str, lasts_ms: int
    ) -> tuple[bool, set[str]]:
        """Do as Backend.begin. Return also whether the bucket is known."""
        known, met = self._run(self._begin, tag, token, lasts_ms, fresh(), *keys)
        return bool(known), {key.decode() for key in met}

    def begin_seeing(self, tag: str, asked: BegunKey) -> SeenKey:
        """Do as Backend.begin_seeing."""
        key, token, lasts_ms, *rest = asked
        found = self._run(self._begin_seeing, tag, token, lasts_ms, fresh(), key, *rest)
        known, seq, record, above, met, last, note = found
        return SeenKey(bool(known), seq, record, above, bool(met), bool(last), note)

    def end(self, tag: str, keys: Sequence[str], token: str, *, unsure: bool) -> set[str]:
        """Do as Backend.end."""
        found = self._run(self._end, tag, token, int(unsure), fresh(), *keys)
        return {key.decode() for key in found}

    def enlist(self, tag: str, origin: int, name: str) -> None:
        """Put *name* into the list of buckets; log it if that is news."""
        self._run(self._enlist, tag, origin, name)

    def mark(self, tag: str, scope: Scope, since: int | None) -> MarkedScope:
        """Do as Backend.mark, but for making the bucket known."""
        said = "" if since is None else since
        found = self._run(self._mark, tag, scope.prefix, int(scope.deep), json.dumps(scope), said)
        marked, known, seq = found
        return MarkedScope(bool(marked), bool(known), seq)

    def swap_note(
        self,
        tag: str,
        name: str,
        before: str | None,
        after: str | None,
        origin: int | None,
        *beside: RedisCommand,
    ) -> tuple[bool, str | None, list[Any]]:
        """Do as Backend.swap_note. *origin* is that of the line in the log; None: there must be no
        line. Return also the answers to the commands *beside*, which run after that."""
        answer, *answers = self.together(
            tag, [self._swap_of((name, before, after), origin), *beside]
        )
        return *_swapped(answer), answers

    def swap_notes(
        self, tag: str, swaps: Sequence[NoteSwap], origins: Sequence[int | None]
    ) -> list[tuple[bool, str | None]]:
        """Do as `swap_note` for each, in one round trip."""
        asked = list(map(self._swap_of, swaps, origins))
        return [_swapped(answer) for answer in self.together(tag, asked)]

    def _swap_of(self, swap: NoteSwap, origin: int | None) -> _Call:
        name, *texts = swap
        said = [part for text in texts for part in (int(text is not None), text or "")]
        return self._swap, (name, *said, "" if origin is None else origin)

    def together(self, tag: str, asked: Sequence[RedisCommand | _Call]) -> list[Any]:
        """Return the answers to the commands and scripts *asked*, in their order."""
        if isinstance(self._client, RedisCluster) or len(asked) == 1:
            return [
                self._client.execute_command(*each)
                if isinstance(each[0], str)
                else self._run(each[0], tag, *each[1])
                for each in asked
            ]
        try:
            return self._piped(tag, asked)
        except NoScriptError:  # a server that began anew
            for script in {each[0] for each in asked if not isinstance(each[0], str)}:
                self._client.script_load(script.script)
            return self._piped(tag, asked)

    def _piped(self, tag: str, asked: Sequence[RedisCommand | _Call]) -> list[Any]:
        # A script that is given to a pipeline of redis-py costs a SCRIPT EXISTS each time.
        with self._client.pipeline(transaction=False) as pipe:
            for each in asked:
                if isinstance(each[0], str):
                    pipe.execute_command(*each)
                else:
                    keys = _keys(tag)
                    pipe.evalsha(each[0].sha, len(keys), *keys, *each[1])
            found: list[Any] = pipe.execute()
        return found

    def _run(self, script: Any, tag: str, *args: Any) -> Any:
        """Return the answer of *script*. Waits for keys that move."""
        deadline = time.monotonic() + _MOVES_S
        while True:
            try:
                return script(keys=_keys(tag), args=args)
            except ClusterError as exc:  # redis-py has heard TRYAGAIN for half a second
                if isinstance(exc, ClusterDownError) or time.monotonic() > deadline:
                    raise


def _args_of(batch: ChangeBatch) -> tuple[Any, ...]:
    since = "" if batch.since is None else batch.since
    args: list[Any] = [batch.origin, since, WIDE_CHANGE, len(batch.puts)]
    args += [batch.first, batch.last, *batch.step, fresh()]
    for change in (*batch.puts, *batch.deletes):
        args += change
    return tuple(args)


def _swapped(answer: tuple[int, bytes | None]) -> tuple[bool, str | None]:
    done, now = answer
    return bool(done), now.decode() if now is not None else None


def _keys(tag: str) -> list[str]:
    return [tag, f"{tag}:meta"]
