"""The page as a whole: makes a document from the figures of a mount.

Threading: `MountPage` may be asked by any number of threads.
"""

from __future__ import annotations

import os
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from mimicfs.admin.bundle import without_secrets
from mimicfs.admin.site import Response
from mimicfs.admin.sources import Sources
from mimicfs.admin.troubles import Trouble, troubles
from mimicfs.entry import NS
from mimicfs.human import ago, duration
from mimicfs.page import sections
from mimicfs.page.hour import Hour, Minute, spent, totals_in
from mimicfs.page.markup import Markup, element, together
from mimicfs.page.warned import RecentWarnings, Warned

_EVERY_S = 10
_KIND = "text/html; charset=utf-8"
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect"
    " width='16' height='16' rx='4' fill='%230f766e'/%3E%3Cpath d='M4 11V5l4 4 4-4v6' fill='none'"
    " stroke='white' stroke-width='1.6'/%3E%3C/svg%3E"
)
_STYLE = Markup(files("mimicfs.page").joinpath("look.css").read_text(encoding="utf-8"))
_STYLE_HASH = b64encode(sha256(_STYLE.encode()).digest()).decode()
# No script, nothing from elsewhere, in no frame; the only style is the one that we send.
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}

Mounts = Sequence[Mapping[str, Any]]


class View(NamedTuple):
    """Everything that one page shows. *mounts* are those of this user, by their records."""

    figures: Mapping[str, Any]
    minutes: Sequence[Minute]
    mounts: Mounts
    notes: Sequence[Warned]
    now_s: float


class MountPage:
    """Answers with the page of the mount that this process serves."""

    def __init__(
        self,
        sources: Sources,
        hour: Hour,
        notes: RecentWarnings,
        mounts: Callable[[], Iterable[Mapping[str, Any]]],
        secrets: Callable[[], list[str]],
        *,
        metrics: bool,
    ) -> None:
        self._sources = sources
        self._hour = hour
        self._notes = notes
        self._mounts = mounts
        self._secrets = secrets
        self._metrics = metrics

    def answer(self, query: Mapping[str, str]) -> Response:
        figures = self._sources.collect()
        now_s = time.time()
        minutes = self._hour.minutes(totals_in(figures), now_s)
        clean = partial(_clean, self._secrets())
        notes = [each._replace(text=clean(each.text)) for each in self._notes.latest()]
        seen = View(clean(figures), minutes, clean(list(self._mounts())), notes, now_s)
        return Response(_KIND, self._rendered(seen, query).encode(), _HEADERS)

    def _rendered(self, seen: View, query: Mapping[str, str]) -> str:
        return rendered(seen, paused="paused" in query, metrics=self._metrics)


def _clean(secrets: Sequence[str], said: Any) -> Any:
    """Return *said* without the parts of its texts that are secret, or look secret."""
    if isinstance(said, str):
        return without_secrets(said, secrets)
    if isinstance(said, Mapping):
        return {key: _clean(secrets, value) for key, value in said.items()}
    return [_clean(secrets, each) for each in said] if isinstance(said, list) else said


def rendered(seen: View, *, paused: bool = False, metrics: bool = True) -> str:
    """Return the document that shows what was *seen*. It loads itself anew unless *paused*.
    *metrics*: there are metrics beside it."""
    # Only living ones: the process of a dead mount, in a container before this one, was number 1,
    # too.
    ours = [each for each in seen.mounts if each["alive"] and each["pid"] == os.getpid()]
    mount = ours[0] if ours else {}
    title = f"{mount.get('target', 's3://')} at {mount.get('mountpoint', '?')}"
    refresh = None if paused else element("meta", http_equiv="refresh", content=_EVERY_S)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        refresh,
        element("title", f"{title} - mimicfs"),
        element("link", rel="icon", href=_ICON),
        element("style", _STYLE),
    )
    body = element("body", *_body(seen, mount), _footer(seen, paused, metrics))
    return f'<!DOCTYPE html>\n<html lang="en">{head}{body}</html>\n'


def _body(seen: View, mount: Mapping[str, Any]) -> tuple[Markup, ...]:
    now_ns = int(seen.now_s * NS)
    others = [each for each in seen.mounts if each is not mount]
    dead = [each["mountpoint"] for each in others if not each["alive"]]
    found = troubles(seen.figures, dead)
    parts = (
        sections.attention(found),
        sections.tiles(seen.figures, spent(seen.minutes)),
        sections.syncs(seen.figures),
        sections.plots(seen.minutes, seen.now_s),
        sections.freshness(seen.figures, now_ns),
        sections.uploads(seen.figures),
        sections.calls(seen.figures, seen.minutes),
        sections.errors(seen.figures, seen.notes),
        sections.others(others, now_ns),
    )
    return _header(seen, mount, found), element("main", *parts)


def _header(seen: View, mount: Mapping[str, Any], found: Sequence[Trouble]) -> Markup:
    grave = sum(each.grave for each in found)
    state, kind = ("All is well", "good") if not found else ("Look below", "warn")
    if grave:
        state, kind = (f"{grave} to mend", "bad")
    process = seen.figures.get("process", {})
    facts = [f"endpoint {mount.get('endpoint', '?')}", f"mirror in {mount.get('store', '?')}"]
    if mount:
        facts.insert(0, f"mounted {ago(mount['started_ns'], int(seen.now_s * NS))}")
        facts.append("read-only" if mount["read_only"] else "read and write")
    if "version" in process:
        facts.append(f"mimicfs {process['version']}, pid {process['pid']}")
    return element(
        "header",
        element("p", "mimicfs", class_="brand"),
        element(
            "h1",
            element("span", mount.get("target", "s3://")),
            element("span", " at ", class_="at"),
            element("span", mount.get("mountpoint", "?")),
        ),
        element("p", state, class_=f"state {kind}"),
        element("p", *(element("span", each) for each in facts), class_="facts"),
    )


def _footer(seen: View, paused: bool, metrics: bool) -> Markup:
    process = seen.figures.get("process", {})
    at = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seen.now_s))
    link = element("a", "Go on", href="/") if paused else element("a", "Pause", href="/?paused")
    told = "Paused." if paused else f"Comes anew every {_EVERY_S} s."
    up = f"Up {duration(process['uptime_s'])}. " if "uptime_s" in process else ""
    scraped = together(", ", element("a", "/metrics", href="/metrics")) if metrics else None
    status = element("code", "mimicfs status --json")
    return element(
        "footer",
        element("p", f"As of {at}. {told} ", link),
        element("p", f"{up}This page only shows. The same for programs: ", status, scraped, "."),
    )
