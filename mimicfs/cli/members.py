"""`mimicfs status --all`: the users of the store, on all machines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mimicfs.cli.options import assembled
from mimicfs.human import amount, duration, iso_time, number_of, printable

if TYPE_CHECKING:
    from mimicfs.backends.sessions import StoreSession
    from mimicfs.config.values import Settings

StatusAnswer = dict[str, Any]


def sessions_of_store(settings: Settings) -> tuple[str, list[StatusAnswer]]:
    """Return the URL of the store, and the status of each of its sessions, those of dead processes
    included."""
    from mimicfs.backends.sessions import sessions

    with closing(assembled(settings)) as parts:
        store = parts.mimicdb.backend
        now_ms = store.now_ms()
        return parts.store, [_told(each, now_ms) for each in sessions(store)]


def _told(session: StoreSession, now_ms: int) -> StatusAnswer:
    from mimicfs.member import LASTS_MS

    silent_s = max(0, now_ms - (session.expires_ms - LASTS_MS)) / 1000
    said = {name: it for name, it in session.said.items() if name not in ("origin", "lag_s")}
    lag_s = session.said.get("lag_s")
    return {
        "session": session.id,
        "host": session.host,
        "pid": session.pid,
        "version": session.version,
        "mountpoint": session.mountpoint,
        "since_ns": session.since_ms * 1_000_000,
        "alive": session.alive,
        "silent_s": round(silent_s, 1),
        "lag_s": None if lag_s is None else round(float(lag_s) + silent_s, 1),
        "buckets": list(session.buckets),
        **said,
    }


def shown(store: str, told: Sequence[StatusAnswer]) -> str:
    """Return *told*, the status of the sessions of *store*, for people."""
    if not told:
        return f"nobody uses {store}"
    return "\n".join([store, *(line for each in told for line in _lines(each))])


def _lines(each: StatusAnswer) -> Iterator[str]:
    what = each["mountpoint"] or "a program"
    mode = ", read-only" if each.get("read_only") else ""
    state = "" if each["alive"] else f" (DEAD: silent for {duration(each['silent_s'])})"
    yield printable(f"  {each['host']}:{what}{mode}{state}")
    lag = "" if each["lag_s"] is None else f", {duration(each['lag_s'])} behind at most"
    since = iso_time(each["since_ns"])
    yield printable(f"    version {each['version']}, pid {each['pid']}, since {since}{lag}")
    if each.get("pending_files"):
        files = number_of(each["pending_files"], "file")
        yield f"    S3 does not have {files} with {amount(each['pending_bytes'])} yet"
    if each["buckets"]:
        yield printable(f"    changes {', '.join(each['buckets'])}")
