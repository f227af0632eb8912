"""What the site of the documents (scripts/docs, mkdocs.yml) is made of; the script builds it."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SETTINGS = (ROOT / "mkdocs.yml").read_text()
_NAMES = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)


def test_every_document_is_in_the_menu_of_the_site():
    menu = set(re.findall(r"[\w/-]+\.md$", _SETTINGS, re.MULTILINE))
    documents = {str(it.relative_to(ROOT / "docs")) for it in (ROOT / "docs").rglob("*.md")}
    assert menu == documents


@pytest.mark.parametrize("name", _NAMES)
def test_what_the_reference_names_exists_and_says_what_it_is(name):
    module, _, last = name.rpartition(".")
    parent = importlib.import_module(module)
    found = getattr(parent, last, None) or importlib.import_module(name)
    assert found.__doc__


@pytest.mark.parametrize("name", _NAMES)
def test_what_the_reference_names_says_of_each_of_its_names_what_the_caller_gets(name):
    module, _, last = name.rpartition(".")
    found = getattr(importlib.import_module(module), last, None)
    bases = getattr(found, "__mro__", ())
    public = [
        member
        for base in bases
        if base.__module__.startswith("mimicfs.")
        for member, value in vars(base).items()
        if not member.startswith("_") and (inspect.isroutine(value) or isinstance(value, property))
    ]
    # A method that keeps a promise of its base says no more than that.
    said = {
        member: [getattr(vars(base).get(member), "__doc__", "") for base in bases]
        for member in public
    }
    assert [member for member, texts in said.items() if not any(texts)] == []


def test_the_site_fetches_nothing_from_elsewhere():
    assert "  font: false" in _SETTINGS
    assert not re.search(r"https?://|^extra_(css|javascript)", _SETTINGS, re.MULTILINE)
