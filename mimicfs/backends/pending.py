"""Intents: the keys that are being changed at S3, and those whose result only S3 knows.

S3 may do two requests about one key in another order than their answers arrive. So each mount notes
what it is about to change (`Backend.begin`), asks S3, and notes the result (`Backend.apply` with an
IntentStep, or `Backend.end`). A key has a row from the first begin until nothing about it is open.
It is *contended* if two intents overlapped, if something else about it was learned meanwhile, if a
token was missing, or if nobody knows what S3 did. Then only the answer to a HEAD is believed that
was sent while the row had the generation that it still has (`IntentStep.expected`). Every change of
a row gives it another generation.

    state        begin       done or end          learned     HEAD, same generation
    no row       pending     contended            -           -
    pending      contended   no row, or as left   contended   contended
    contended    contended   contended            contended   no row, if nobody is pending

The scripts of Redis do the same in Lua (redis/lua.py); the tests run over both.

Pure functions of the rows as text; any thread may call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mimicfs.entry import Entry
from mimicfs.errors import StoreCorrupt

DELETION = "-"  # the end of the token of an intent to delete


class IntentStep(NamedTuple):
    """The meaning of a change that is applied: the end of the intent *token*; the answer to a HEAD,
    sent while the row had the generation *expected*; or, with neither, something learned."""

    token: str = ""
    expected: str = ""


LEARNED = IntentStep()
ALONE_FROM = 19  # behind '["' and a generation: see `alone`


class Unsettled(NamedTuple):
    """A key that is pending or contended."""

    key: str
    generation: str
    pending: bool  # somebody's request may still be on its way
    age_ms: int  # of the oldest intent; 0: none is open
    goes: bool  # it may be gone soon: an intent is to delete it, or nobody knows what one has done


class Begun(NamedTuple):
    """What the store had of a key in the step in which an intent of it began."""

    seq: int  # of the bucket
    entry: Entry | None
    above: Entry | None  # the entry of its directory; not told if `most` is negative
    met: bool  # its row was there before: somebody else changes it, or nobody knows its result
    last: bool  # no other name in its directory stays for certain
    note: str | None  # the one that was asked for


class _PendingRow(NamedTuple):
    generation: str
    contended: bool
    tokens: dict[str, list[int]]  # when each began, and its deadline, by the store's clock


def fresh() -> str:
    """Return a generation that no row has had."""
    return os.urandom(8).hex()  # `secrets` would load OpenSSL


def _row(text: str | None) -> _PendingRow | None:
    return None if text is None else _parsed(text)


def _parsed(text: str) -> _PendingRow:
    try:
        return _PendingRow(*json.loads(text))
    except (ValueError, TypeError) as exc:
        raise StoreCorrupt(f"the row {text!r} of an unfinished change is not of mimicfs") from exc


def begun(text: str | None, token: str, now_ms: int, lasts_ms: int) -> str:
    """Return the row after *token* has begun."""
    row = _row(text)
    tokens = {} if row is None else row.tokens
    tokens[token] = [now_ms, now_ms + lasts_ms]
    return json.dumps(_PendingRow(fresh(), row is not None, tokens))


def alone(token: str) -> str:
    """Return what a row has from character ALONE_FROM on (the first is 1) if nobody has touched it
    since *token* has begun it: then its end is certain."""
    return f'", false, {{{json.dumps(token)}: ['


def ended(text: str | None, token: str, *, unsure: bool) -> str | None:
    """Return the row after *token* has ended; None: there is none, and the result is certain."""
    row = _row(text)
    tokens = {} if row is None else row.tokens
    known = tokens.pop(token, None) is not None
    if row is not None and known and not row.contended and not unsure:
        return None
    return json.dumps(_PendingRow(fresh(), True, tokens))


def admitted(text: str | None, step: IntentStep, *, guarded: bool) -> tuple[bool, str | None]:
    """Return whether a change of a key is stored, and its row afterwards. *guarded*: the log has a
    change of the key that the writer of this one did not know."""
    if step.token:
        after = ended(text, step.token, unsure=guarded)
        return after is None, after
    row = _row(text)
    if step.expected:
        if row is None or row.generation != step.expected:
            return False, text
        return True, json.dumps(row._replace(generation=fresh())) if row.tokens else None
    if guarded or row is None:
        return not guarded, text
    return True, json.dumps(_PendingRow(fresh(), True, row.tokens))


def reaped(text: str, now_ms: int, lives: Callable[[str], bool]) -> str:
    """Return the row without the tokens that are over their deadline, and those of which *lives* is
    not true."""
    row = _parsed(text)
    over = set(_over(row, now_ms, lives))
    kept = {token: times for token, times in row.tokens.items() if token not in over}
    return json.dumps(_PendingRow(fresh(), True, kept)) if over else text


def overdue(
    rows: Mapping[str, str], now_ms: int, lives: Callable[[str], bool]
) -> dict[str, list[str]]:
    """Return the tokens that `reaped` would take out of *rows*, with their keys."""
    found: dict[str, list[str]] = {}
    for key, text in rows.items():
        for token in _over(_parsed(text), now_ms, lives):
            found.setdefault(token, []).append(key)
    return found


def _over(row: _PendingRow, now_ms: int, lives: Callable[[str], bool]) -> list[str]:
    deadlines = ((token, deadline_ms) for token, (_, deadline_ms) in row.tokens.items())
    return [token for token, deadline_ms in deadlines if deadline_ms <= now_ms or not lives(token)]


def unsettled(rows: Mapping[str, str], now_ms: int, key: str | None = None) -> list[Unsettled]:
    """Return the keys of *rows*, in order; or *key*, if it is one."""
    if key is not None:
        rows = {key: rows[key]} if key in rows else {}
    found: list[Unsettled] = []
    for name, text in sorted(rows.items()):
        row = _parsed(text)
        began_ms = min((began for began, _ in row.tokens.values()), default=now_ms)
        age_ms, goes = now_ms - began_ms, _goes(row)
        found.append(Unsettled(name, row.generation, bool(row.tokens), age_ms, goes))
    return found


def may_go(text: str | None) -> bool:
    """Whether a key with the row *text* may be gone soon (Unsettled.goes)."""
    row = _row(text)
    return row is not None and _goes(row)


def _goes(row: _PendingRow) -> bool:
    return row.contended or any(token.endswith(DELETION) for token in row.tokens)
