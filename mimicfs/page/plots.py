"""Small plots of the last hour, a bar for each minute, in SVG. Each bar has its numbers as a title;
the page has the same numbers in a table.

Threading: no state.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mimicfs.page.hour import MINUTES, Minute
from mimicfs.page.markup import Markup, element, together

_HEIGHT = 100
_WIDTH = 10  # of a minute
_GAP = 2


class Series(NamedTuple):
    """A part of each bar; *kind* is its class in look.css."""

    name: str
    kind: str
    value: Callable[[Minute], float]


class Plot(NamedTuple):
    """A plot. *told* writes a value as text."""

    name: str
    title: str
    series: Sequence[Series]
    told: Callable[[float], str]


def figure(plot: Plot, minutes: Sequence[Minute], now_s: float) -> Markup:
    """Return *plot* of *minutes*: the current value, the bars, and the meaning of the colours."""
    highest = max((_sum(plot, each) for each in minutes), default=0.0)
    now = plot.told(_sum(plot, minutes[-1])) if minutes else "-"
    head = element(
        "figcaption",
        element("h3", plot.title, id=f"{plot.name}-title"),
        element("p", element("b", now), " this minute", class_="now"),
    )
    top = element("span", plot.told(highest) if highest else "", class_="top")
    axis = element(
        "p",
        *(element("span", _clock(now_s - ago * 60)) for ago in (MINUTES - 1, MINUTES // 2, 0)),
        class_="axis",
        aria_hidden="true",
    )
    frame = element("div", _bars(plot, minutes, now_s, highest), top, class_="frame")
    return element("figure", head, frame, axis, _legend(plot), class_="plot")


def meter(value: float, most: float, kind: str) -> Markup:
    """Return a bar that is as full as *value* is of *most*; the number stands beside it."""
    full = _rectangle(0, 0, 100 * min(1.0, value / most) if most else 0, 1, kind)
    return element("svg", _rectangle(0, 0, 100, 1, "rest"), full, viewBox="0 0 100 1",
                   preserveAspectRatio="none", class_="meter", aria_hidden="true")  # fmt: skip


def _bars(plot: Plot, minutes: Sequence[Minute], now_s: float, highest: float) -> Markup:
    name = f"{plot.title}, the last hour; at most {plot.told(highest)} in a minute"
    bars = [_bar(plot, each, now_s, highest) for each in minutes] if highest else []
    return element(
        "svg",
        element("title", name),
        *bars,
        viewBox=f"0 0 {MINUTES * _WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=name,
    )


def _bar(plot: Plot, minute: Minute, now_s: float, highest: float) -> Markup:
    place = MINUTES - 1 - int(now_s // 60 - minute.start_s // 60)
    said = ", ".join(f"{plot.told(each.value(minute))} {each.name}" for each in plot.series)
    bars, base = [], float(_HEIGHT)
    for each in plot.series:
        height = each.value(minute) / highest * (_HEIGHT - 4)
        if height:
            base -= height
            bars.append(_rectangle(place * _WIDTH + _GAP / 2, base, _WIDTH - _GAP, height,
                                   each.kind))  # fmt: skip
    whole = _rectangle(place * _WIDTH, 0, _WIDTH, _HEIGHT, "hit")  # so that a low bar can be met
    return element("g", element("title", f"{_clock(minute.start_s)}: {said}"), whole, *bars)


def _rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    return element("rect", x=f"{x:g}", y=f"{y:.2f}", width=f"{width:g}", height=f"{height:.2f}",
                   class_=kind)  # fmt: skip


def _legend(plot: Plot) -> Markup:
    keys = (element("li", element("i", class_=each.kind), each.name) for each in plot.series)
    return element("ul", together(*keys), class_="legend")


def _sum(plot: Plot, minute: Minute) -> float:
    return sum(each.value(minute) for each in plot.series)


def _clock(at_s: float) -> str:
    return time.strftime("%H:%M", time.localtime(at_s))
