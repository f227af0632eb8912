"""A name means one thing in the whole package, and arguments stand where they are called."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def modules() -> dict[str, str]:
    """Return the text of each module of the package, by its path."""
    found = sorted((ROOT / "mimicfs").rglob("*.py"))
    return {str(file.relative_to(ROOT)): file.read_text() for file in found}


def test_a_name_of_a_class_or_a_type_has_one_meaning() -> None:
    """A private `_X` counts as `X`. Two aliases of one type mean the same."""
    meanings = defaultdict(list)
    for file, text in modules().items():
        for name in re.findall(r"^ *class _?(\w+)", text, re.MULTILINE):
            meanings[name].append(file)
        for name, what in re.findall(r"^_?([A-Z][a-z]\w+) = (.*)", text, re.MULTILINE):
            meaning = what.partition("  #")[0]
            if meaning not in meanings[name] and not what.endswith("  # boto's name"):
                meanings[name].append(meaning)
    assert {name: found for name, found in meanings.items() if len(found) > 1} == {}


def test_the_store_is_asked_through_the_mirror() -> None:
    found = {file for file, text in modules().items() if re.search(r"mimicdb\.backend\.\w", text)}
    assert found == set()


def test_a_loop_has_a_variable_of_its_own() -> None:
    found = {
        file
        for file, text in modules().items()
        if re.search(r"\bfor [\w, ]*\w[.\[][\w\], ]* in\b", text)  # to parse all takes seconds
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.For | ast.comprehension)
        for target in ast.walk(node.target)
        if isinstance(target, ast.Attribute | ast.Subscript)
    }
    assert found == set()


def test_nothing_is_wrapped_in_a_tuple_to_be_unwrapped() -> None:
    found = [
        f"{file}:{starred.lineno}"
        for file, text in modules().items()
        if re.search(r"[(,\[{]\s*\*[(\[]", text)  # to parse all takes seconds
        for starred in ast.walk(ast.parse(text))
        if isinstance(starred, ast.Starred) and isinstance(starred.value, ast.Tuple | ast.List)
    ]
    assert found == []


def test_a_place_in_a_tuple_has_a_name() -> None:
    """`_, size = found[-1]`, not `found[-1][1]`. In both exceptions, the place is the first of a
    list."""
    found = [
        f"{file}: {line.strip()}"
        for file, text in modules().items()
        if not file.endswith("redis/scripts.py")  # Lua
        for line in text.split("\n")
        if re.search(r"\w\[[^\[\]:]+\]\[-?\d\]", line.partition("  #")[0])
    ]
    assert [line.partition(":")[0] for line in found] == [
        "mimicfs/s3/transport/wire.py",
        "mimicfs/vfs/walking.py",
    ]
