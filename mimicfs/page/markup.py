"""HTML and SVG as values. Text becomes markup here and nowhere else, and is escaped: names of
buckets, keys and errors come from strangers.

Threading: no state.
"""

from __future__ import annotations

from html import escape

from mimicfs.human import printable

_VOID = frozenset({"link", "meta"})  # elements without an end


class Markup(str):
    """A text that is HTML already. Only this module makes one of a text, and others of
    our own constants."""

    __slots__ = ()


Child = Markup | str | int | None  # None: nothing


def element(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """Return an element. In the name of an attribute, "_" stands for "-", and a "_" at the end is
    left out (class_). True makes an attribute without a value; False and None make none."""
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
    """Return *children* one behind the other. A child that is no Markup is escaped."""
    return Markup("".join(_text(each) for each in children if each is not None))


def _text(child: Markup | str | int) -> str:
    return child if isinstance(child, Markup) else escape(printable(str(child)))
