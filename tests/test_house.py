"""The house is in order: each file of ours is checked, whatever its name."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@functools.cache
def texts() -> dict[str, str]:
    """Return the text of each file of ours, by its path."""
    tops = [ROOT / top for top in ("deploy", "docs", "mimicfs", "scripts", "tests")]
    found = [*ROOT.glob("*.*"), *(file for top in tops for file in top.rglob("*"))]
    return {
        str(file.relative_to(ROOT)): file.read_text()
        for file in sorted(found)
        if file.is_file() and file.suffix != ".png" and "__pycache__" not in file.parts
    }


def python_without_an_ending() -> set[str]:
    return {
        path
        for path, text in texts().items()
        if not path.endswith(".py") and "python" in text.partition("\n")[0]
    }


def test_ruff_and_mypy_look_at_python_that_has_no_ending():
    ruff = tomllib.loads((ROOT / "ruff.toml").read_text())
    mypy = ConfigParser()
    mypy.read(ROOT / "tests/mypy.ini")
    assert set(ruff["extend-include"]) == python_without_an_ending()
    assert python_without_an_ending() <= set(mypy["mypy"]["files"].split(", "))


def test_a_module_and_a_function_fit_what_a_reader_holds():
    """CONTRIBUTING.md, "How a change looks": 500 lines, and 50."""
    ours = {
        path: text for path, text in texts().items() if path.startswith(("mimicfs/", "scripts/"))
    }
    python = python_without_an_ending()
    modules = {path: text for path, text in ours.items() if path.endswith(".py") or path in python}
    long = [path for path, text in modules.items() if text.count("\n") > 500]
    for path, text in modules.items():
        if max(map(len, re.split(r"^ *(?:async )?def ", text, flags=re.MULTILINE))) < 1500:
            continue  # to parse all takes seconds
        long += [
            f"{path}: {node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and (node.end_lineno or 0) - node.lineno >= 50
        ]
    assert long == []


def test_a_file_of_tests_has_at_most_800_lines():
    tests = {path: text for path, text in texts().items() if Path(path).name.startswith("test_")}
    assert [path for path, text in tests.items() if text.count("\n") > 800] == []


def test_no_line_ends_with_a_space():
    found = [
        f"{path}:{number}"
        for path, text in texts().items()
        for number, line in enumerate(text.split("\n"), 1)
        if line != line.rstrip()
    ]
    assert found == []
