"""HTML and SVG as values. Text becomes markup here and nowhere else, escaped: names of buckets,
keys and errors come from strangers.

Threading: no state.
"""

from __future__ import annotations

from html import escape

from mimicfs.human import printable

_VOID = frozenset({"link", "meta"})  # that have no end


class Markup(str):
    """A text that is HTML already. Only this module, and literals, make one."""

    __slots__ = ()


Child = Markup | str | int | None  # None: nothing


def element(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element. Of an attribute's name, "_" stands for "-", and one at the end is left
    out (class_); True is an attribute without a value, False and None are none."""
    words = [name]
    for key, value in attributes.items():
        word = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(word)
        elif value is not None and value is not False:
            words.append(f'{word}="{escape(printable(str(value)))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in _VOID else f"{start}{together(*children)}</{name}>")


def together(*children: Child) -> Markup:
    """Return *children* one behind the other; what is no Markup is escaped."""
    return Markup("".join(_text(each) for each in children if each is not None))


def _text(child: Markup | str | int) -> str:
    return child if isinstance(child, Markup) else escape(printable(str(child)))
