"""The sections of the page: each takes the figures of a mount, and returns markup.

Threading: no state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from mimicfs.admin.sources import Figures
from mimicfs.admin.troubles import Trouble
from mimicfs.entry import NS
from mimicfs.human import ago, amount, bytes_a_second, duration, iso_time, number_of
from mimicfs.page.hour import Minute, Totals, spent
from mimicfs.page.markup import Child, Markup, element, together
from mimicfs.page.meanings import advice_of_code, meaning_of_errno
from mimicfs.page.plots import Plot, Series, figure, meter
from mimicfs.page.warned import Warned

_BUCKETS_MAX = 100
_MOUNTS_MAX = 50
_SYNCS_MAX = 20
_LIVE_S = 120  # a bucket of which S3 told so recently is up to date
_RECENT_MINUTES = 5


# The whole


def attention(found: Sequence[Trouble]) -> Markup | None:
    """Return the troubles at which somebody should look; None: there are none."""
    if not found:
        return None
    items = (
        element("li", element("strong", each.what), " ", element("span", each.advice),
                class_="grave" if each.grave else "mild")
        for each in found
    )  # fmt: skip
    return section("attention", "To look at", element("ul", *items, class_="troubles"))


def tiles(figures: Figures, hour: Totals) -> Markup:
    """Return the few numbers that say how the mount is doing."""
    kernel, files = figures.get("kernel", {}), figures.get("files", {})
    costs = figures.get("costs", {})
    known, asked = kernel.get("answered_by_mirror"), kernel.get("asked_s3_first")
    share = f"{100 * known / (known + asked):.1f} %" if known else "-"
    waiting = files.get("pending", 0)
    money = ""
    if "currency" in costs:
        money = f"; {costs['spared']:,.2f} {costs['currency']} spared"
    shown = (
        _tile("From the mirror", share, f"of {known or 0:,} questions, without a request{money}"),
        _tile("Requests to S3", f"{hour.of('requests'):,}", "in the last hour"),
        _tile("Latency of S3", _ms(hour.mean_s), "mean of the last hour"),
        _tile("Moved", amount(hour.of("in")), f"in, {amount(hour.of('out'))} out, last hour"),
        _tile("Not in S3 yet", f"{waiting:,}", f"files, {amount(files.get('staged_bytes', 0))}"),
    )
    return element("dl", *shown, class_="tiles")


def plots(minutes: Sequence[Minute], now_s: float) -> Markup:
    """Return the plots of the last hour, and their numbers as a table."""
    drawn = element("div", *(figure(plot, minutes, now_s) for plot in _PLOTS), class_="plots")
    heads = ["Minute", *(f"{plot.title}: {it.name}" for plot in _PLOTS for it in plot.series)]
    rows = [
        [_clock(each.start_s), *(p.told(it.value(each)) for p in _PLOTS for it in p.series)]
        for each in reversed(minutes)
    ]
    numbers = table("The last hour, a row for each minute, the newest first", heads, rows)
    details = element("details", element("summary", "The same in numbers"), numbers)
    return section("hour", "The last hour", drawn, details)


def freshness(figures: Figures, now_ns: int) -> Markup:
    """Return how up to date each bucket is, and how that is known."""
    buckets = figures.get("mirror", {}).get("buckets", [])
    told = figures.get("events", {}).get("told_until_ns", {})
    swept = figures.get("reconcile", {}).get("swept_until_ns", {})
    rows = [
        [
            element("b", each["name"]), _true_until(each, told, swept, now_ns),
            f"{each['objects']:,}", amount(each["bytes"]),
            _since(each["synced_ns"], now_ns) if each["complete"] else "what was visited",
            _since(told.get(each["name"]), now_ns), _since(swept.get(each["name"]), now_ns),
        ]
        for each in buckets[:_BUCKETS_MAX]
    ]  # fmt: skip
    heads = ["Bucket", "True as of", "Keys", "Size", "Listed whole", "Told until", "Swept after"]
    caption = (
        "How new the mirror is. Listed: by a sync. Told: by S3's events (--events). Swept: the"
        " oldest part was listed again after that (--reconcile)."
    )
    more = figures.get("mirror", {}).get("buckets_known", 0) - len(rows)
    note = element("p", f"and {number_of(more, 'more bucket')}") if more > 0 else None
    return section("freshness", "Buckets", table(caption, heads, rows), note)


def syncs(figures: Figures) -> Markup | None:
    """Return the progress of each running sync; None: none runs."""
    running = figures.get("sync", {}).get("running", [])
    if not running:
        return None
    items = [_sync(each) for each in running[:_SYNCS_MAX]]
    return section("syncs", "Syncs that run", element("ul", *items, class_="syncs"))


def uploads(figures: Figures) -> Markup:
    """Return the bytes that S3 does not have yet."""
    files = figures.get("files", {})
    queue = files.get("write_back", {})
    unsaved, size = files.get("unsaved", 0), amount(files.get("unsaved_bytes", 0))
    open_ = f"{number_of(unsaved, 'file')}, {size}"
    waiting = f"{number_of(queue.get('files', 0), 'file')}, {amount(queue.get('bytes', 0))}"
    if queue.get("files"):
        waiting += f", the oldest for {duration(queue['oldest_s'])}"
    limit = files.get("staging_max")
    staged = amount(files.get("staged_bytes", 0)) + (f" of {amount(limit)}" if limit else "")
    cache = figures.get("cache", {})
    pairs: list[tuple[str, Child]] = [
        ("Open and changed", open_),
        ("Closed, to be uploaded", waiting),
        ("Staged on the disk", staged),
        ("Could not be uploaded", number_of(files.get("recovered", 0), "file")),
        ("Open in all", number_of(files.get("open", 0), "file")),
    ]  # fmt: skip
    if "limit" in cache:
        pairs.append(("Cache on disk", _cache(cache)))
    small = figures.get("small_files", {})
    if "fetched" in small:
        fetched = f"{number_of(small['fetched'], 'file')}, {amount(small['bytes'])}"
        pairs.append(("Small files fetched ahead", fetched))
    return section("uploads", "Files and uploads", _pairs(pairs))


def calls(figures: Figures, minutes: Sequence[Minute]) -> Markup:
    """Return the rate and the latency of each operation of S3."""
    hour, recent = spent(minutes), spent(minutes[-_RECENT_MINUTES:])
    past = max(1, min(_RECENT_MINUTES, len(minutes)))
    slowest = max((hour.seconds[op] / n for op, n in hour.calls.items() if n), default=0.0)
    rows = [
        [
            element("code", operation), f"{count:,}",
            f"{recent.calls.get(operation, 0) / past:,.1f}",
            _latency(hour.seconds[operation] / count, slowest),
        ]
        for operation, count in sorted(hour.calls.items(), key=lambda each: -each[1])
        if count
    ]  # fmt: skip
    heads = ["Operation", "Last hour", "A minute, now", "Mean latency"]
    caption = "Calls of S3. Latency is until the answer begins, retries included."
    part = figures.get("s3", {})
    said = _limits(part.get("limits", {}))
    slow = element("p", f"{part.get('slow', 0):,} calls were slow (--slow-request). {said}")
    return section("calls", "Requests to S3", table(caption, heads, rows), slow)


def errors(figures: Figures, notes: Sequence[Warned]) -> Markup | None:
    """Return the errors since the mount began, and the last warnings; None: there are none."""
    codes = figures.get("s3", {}).get("errors", {})
    given = figures.get("kernel", {}).get("errors", {})
    parts: list[Child] = []
    if codes:
        rows = [[element("code", c), f"{n:,}", advice_of_code(c)] for c, n in _most(codes)]
        parts.append(table("What S3 refused, or did not answer", ["Code", "Calls", ""], rows))
    if given:
        rows = [[element("code", c), f"{n:,}", meaning_of_errno(c)] for c, n in _most(given)]
        parts.append(table("Errors that programs were given", ["Error", "Requests", ""], rows))
    if notes:
        parts += [element("h3", "The last warnings"), element("ol", *map(_note, notes),
                  class_="notes")]  # fmt: skip
    return section("errors", "Errors since the mount began", *parts) if parts else None


def others(mounts: Iterable[Mapping[str, Any]], now_ns: int) -> Markup | None:
    """Return the other mounts of this user; None: there are none."""
    rows = [
        [
            each["target"], element("code", each["mountpoint"]),
            "serves" if each["alive"] else element("span", "died", class_="badge bad"),
            ago(each["started_ns"], now_ns), _link(each["page"]),
        ]
        for each in mounts
    ]  # fmt: skip
    if not rows:
        return None
    heads = ["What", "Where", "State", "Mounted", "Page"]
    shown = table("Other mounts of this user", heads, rows[:_MOUNTS_MAX])
    return section("others", "Other mounts", shown)


# The parts of the sections


def section(name: str, title: str, *children: Child) -> Markup:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Child]]) -> Markup:
    """Return a table that scrolls by itself if it is too wide. *rows* begin with their names."""
    head = element("tr", *(element("th", each, scope="col") for each in heads))
    body = [
        element("tr", element("th", row[0], scope="row"),
                *(element("td", cell, data_label=name)
                  for name, cell in zip(heads[1:], row[1:], strict=True)))
        for row in rows
    ]  # fmt: skip
    empty = element("tr", element("td", "nothing yet", colspan=len(heads)))
    made = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *(body or [empty])),
    )
    return element("div", made, class_="scroll", tabindex=0, role="group", aria_label=caption)


def _pairs(pairs: Iterable[tuple[str, Child]]) -> Markup:
    cells = (element("div", element("dt", name), element("dd", value)) for name, value in pairs)
    return element("dl", *cells, class_="pairs")


def _tile(name: str, value: str, about: str) -> Markup:
    return element(
        "div",
        element("dt", name),
        element("dd", element("b", value), " ", element("span", about)),
    )


def _true_until(
    bucket: Mapping[str, Any], told: Mapping[str, int], swept: Mapping[str, int], now_ns: int
) -> Markup:
    """Return the time as of which everything that is known of *bucket* is true, and the way in
    which that is known."""
    name = bucket["name"]
    ways = {
        "told": told.get(name) or 0,
        "swept": swept.get(name) or 0,
        "listed": (bucket["synced_ns"] or 0) if bucket["complete"] else 0,
    }
    way, at_ns = max(ways.items(), key=lambda each: each[1])
    if not at_ns:
        text = "when each part was visited"
        return element("span", text, class_="badge quiet")
    live = way == "told" and now_ns - at_ns < _LIVE_S * NS
    text = "live, told by S3" if live else f"{ago(at_ns, now_ns)}, {way}"
    return element("span", text, class_="badge good" if live else "badge")


def _since(at_ns: int | None, now_ns: int) -> Markup | str:
    if not at_ns:
        return "-"
    return element("time", ago(at_ns, now_ns), datetime=iso_time(at_ns), title=iso_time(at_ns))


def _sync(each: Mapping[str, Any]) -> Markup:
    keys, expected = each["keys"], each.get("expected")
    so_far = f"{number_of(keys, 'key')} in {number_of(each['pages'], 'page')}"
    left = f", about {duration(each['left_s'])} left" if each.get("left_s") else ""
    total = {"value": min(keys, expected), "max": expected} if expected else {}
    name = f"s3://{each['bucket']}/{each['prefix']}"
    bar = element("progress", so_far, aria_label=f"sync of {name}", **total)
    return element("li", element("b", name), bar, element("span", f"{so_far} so far{left}"))


def _cache(cache: Mapping[str, Any]) -> Markup:
    read = f"{amount(cache['hit'])} read from it, {amount(cache['missed'])} asked of S3"
    used = f"{amount(cache['used'])} of {amount(cache['limit'])}"
    return together(used, meter(cache["used"], cache["limit"], "a"), element("small", read))


def _latency(seconds: float, slowest: float) -> Markup:
    return together(element("span", _ms(seconds), class_="value"), meter(seconds, slowest, "c"))


def _limits(limits: Mapping[str, Any]) -> str:
    said = [
        f"{name} {value}"
        for name, value in (
            ("download", bytes_a_second(limits.get("download_limit", "off"))),
            ("upload", bytes_a_second(limits.get("upload_limit", "off"))),
            ("requests a second", limits.get("request_rate")),
            ("requests a day", limits.get("max_requests_per_day")),
        )
        if value not in (None, "off", 0)
    ]  # fmt: skip
    return f"Limits: {', '.join(said)}." if said else "No limits are set."


def _note(note: Warned) -> Markup:
    at = datetime.fromtimestamp(note.at_s).astimezone()
    stamp = element("time", f"{at:%H:%M:%S}", datetime=at.isoformat(timespec="seconds"))
    return element("li", stamp, " ", element("span", note.text), class_=note.level)


def _link(url: str) -> Markup | str:
    if not url.startswith("http://"):
        return url or "-"
    return element("a", url, href=url, rel="noreferrer")


def _most(counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    yield from sorted(counts.items(), key=lambda each: (-each[1], each[0]))


def _ms(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s):%H:%M}"


def _others_asked(minute: Minute) -> float:
    return max(0, minute.did.of("programs") - minute.did.of("by mirror"))


_PLOTS = (
    Plot(
        "programs",
        "Requests of programs",
        (
            Series("answered by the mirror", "a", lambda each: each.did.of("by mirror")),
            Series("other", "b", _others_asked),
        ),
        _number,
    ),
    Plot(
        "requests",
        "Requests to S3",
        (
            Series("GET", "a", lambda each: each.did.of("GET")),
            Series("HEAD", "b", lambda each: each.did.of("HEAD")),
            Series("LIST", "c", lambda each: each.did.of("LIST")),
            Series("changes", "d", lambda each: each.did.of("changes")),
        ),
        _number,
    ),
    Plot(
        "bytes",
        "Bytes of S3",
        (
            Series("in", "a", lambda each: each.did.of("in")),
            Series("out", "d", lambda each: each.did.of("out")),
        ),
        amount,
    ),
    Plot(
        "latency",
        "Latency of S3",
        (Series("mean", "c", lambda each: each.did.mean_s or 0.0),),
        lambda seconds: _ms(seconds or None),
    ),
)
