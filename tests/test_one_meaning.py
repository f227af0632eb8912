"""A name means one thing in the whole package, and arguments stand where they are called."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from pathlib import Path

import pytest

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
    found = {
        file for file, text in modules().items() if re.search(r"(?<!\bself)\.backend\.\w", text)
    }
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
        if not file.endswith("redis/lua.py")  # Lua
        for line in text.split("\n")
        if re.search(r"\w\[[^\[\]:]+\]\[-?\d\]", line.partition("  #")[0])
    ]
    assert [line.partition(":")[0] for line in found] == [
        "mimicfs/s3/transport/wire.py",
        "mimicfs/vfs/walking.py",
    ]


@pytest.mark.slow  # it parses all: two seconds
def test_what_is_called_a_tuple_is_unpacked() -> None:
    """Also what a function of ours returns: `entry, _ = s3.head(...)`, not `s3.head(...)[0]`."""
    parsed = {file: ast.parse(text) for file, text in modules().items()}
    nodes = [node for tree in parsed.values() for node in ast.walk(tree)]
    aliases = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and _is_tuple(node.value, set())
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    tuples = {each.name for each in functions if _is_tuple(each.returns, aliases)}
    others = {each.name for each in functions if not _is_tuple(each.returns, aliases)}
    tuples -= others | {"split"}  # which is also one of str, and of re
    found = []
    for file, tree in parsed.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            names = {each.arg for each in every if _is_tuple(each.annotation, aliases)}
            found += [
                f"{file}:{node.lineno}"
                for node in ast.walk(function)
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant)
                if _name(node.value) in (names if isinstance(node.value, ast.Name) else tuples)
            ]
    assert sorted({*found}) == []


def _is_tuple(what: ast.expr | None, aliases: set[str]) -> bool:
    """Whether the type *what* is a tuple whose places mean different things; or None."""
    if isinstance(what, ast.BinOp):
        return _is_tuple(what.left, aliases) or _is_tuple(what.right, aliases)
    if isinstance(what, ast.Name):
        return what.id in aliases
    places = what.slice if isinstance(what, ast.Subscript) else None
    return (
        isinstance(places, ast.Tuple)
        and isinstance(what, ast.Subscript)
        and _name(what.value) == "tuple"
        and not any(isinstance(it, ast.Constant) for it in places.elts)  # tuple[str, ...]
    )


def _name(what: ast.expr) -> str:
    """Return the name *what*, or that of the function that it calls."""
    if isinstance(what, ast.Call):
        called = what.func
        return called.attr if isinstance(called, ast.Attribute) else _name(called)
    return what.id if isinstance(what, ast.Name) else ""
