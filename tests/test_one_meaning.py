"""A name means one thing in the whole package, and arguments stand where they are called."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the tree of each module of the package, by its path."""
    found = sorted((ROOT / "mimicfs").rglob("*.py"))
    return {str(file.relative_to(ROOT)): ast.parse(file.read_bytes()) for file in found}


def test_a_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{file}:{node.lineno}")
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_an_argument_is_not_wrapped_in_a_tuple_to_be_unwrapped() -> None:
    found = [
        f"{file}:{argument.lineno}"
        for file, tree in modules().items()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for argument in call.args
        if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Tuple | ast.List)
    ]
    assert found == []
