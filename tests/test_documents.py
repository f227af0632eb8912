"""Everything that documents, docstrings and comments refer to exists, and nothing is said twice.

A reference is a path (`sync/run.py`, or as much of its end as tells it from others), the name
of a test, a module (`mimicfs.s3.key`), a name in a module of ours (`Inodes._lock`), a link, or
a decision: docs/decisions/vfs.md, "Cookies are a listing and an index".
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest
from benchlib import rooms

import mimicfs
from mimicfs import errors

ROOT = Path(__file__).resolve().parents[1]
# Where text of ours is in a Python file: strings in three quotes, and comments.
_PROSE = re.compile(r'"""(.*?)"""|(?:^|\s)#[ :](.*?)$', re.DOTALL | re.MULTILINE)
_PATH = re.compile(r"(?<![\w/.~$}-])(?:\.\./)*([\w@-][\w@./-]*\.(?:py|md))(?!\w)")
_PLACE = re.compile(r"(?<![\w/.~$}-])((?:docs|scripts|tests|mimicfs|shared)/[\w./-]*\w)(?![\w*{<])")
_TEST = re.compile(r"\b(test_\w+)")
_MODULE = re.compile(r"(?<![\w./-])(mimicfs(?:\.[A-Za-z_]\w*)+)")
_MEMBER = re.compile(r"`([A-Z]\w+)\.(\w+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_CITED = re.compile(r"docs/decisions/(\w+)\.md,\s+(?:#\s+)?\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


class Said(NamedTuple):
    """A piece of text, and where it is."""

    file: str
    line: int
    text: str


@functools.cache
def files() -> tuple[str, ...]:
    """Return the paths of all files of ours, from the root of the project."""
    tops = [ROOT / top for top in ("docs", "mimicfs", "scripts", "tests")]
    found = [*ROOT.glob("*.*"), *(file for top in tops for file in top.rglob("*"))]
    ours = [file for file in found if file.is_file() and "__pycache__" not in file.parts]
    return tuple(sorted(str(file.relative_to(ROOT)) for file in ours))


@functools.cache
def read(file: str) -> str:
    return (ROOT / file).read_text()


@functools.cache
def prose() -> tuple[Said, ...]:
    """Return each document, docstring and comment of ours."""
    return tuple(said for file in files() for said in _in_file(file))


def _in_file(file: str) -> Iterator[Said]:
    if file.endswith(".md"):
        yield Said(file, 1, read(file))
    elif _has_comments(file):
        for found in _PROSE.finditer(read(file)):
            text = found[1] or found[2] or ""
            yield Said(file, read(file)[: found.start()].count("\n") + 1, text)


def _has_comments(file: str) -> bool:
    """Python, also without an ending, and the scripts of the shell; not this file."""
    script = file.startswith("scripts/") and read(file).startswith("#!")
    ours = script or file.endswith((".py", ".sh"))
    return ours and file != "tests/test_documents.py"


@functools.cache
def ends() -> frozenset[str]:
    """Return each end of each path, a directory's too: "sync/run.py" and "run.py"."""
    paths = set(files()) | {str(p) for f in files() for p in Path(f).parents}
    return frozenset("/".join(p.split("/")[i:]) for p in paths for i in range(p.count("/") + 1))


@functools.cache
def named_tests() -> frozenset[str]:
    """Return the names of all tests, and of the modules they are in."""
    modules = [file for file in files() if file.endswith(".py")]
    named = [name for file in modules for name in re.findall(r"def (test_\w+)", read(file))]
    return frozenset(named) | {Path(file).stem for file in modules}


def lost(pattern: re.Pattern[str], is_there, texts: Iterable[Said] = ()) -> list[str]:
    """Return where something that *pattern* finds *is_there* not, in *texts* or all prose."""
    return [
        f"{said.file}:{said.line + said.text[: found.start()].count(chr(10))}: {found[0]}"
        for said in texts or prose()
        for found in pattern.finditer(said.text)
        if not is_there(said, *found.groups())
    ]


def module_has(name: str) -> bool:
    """Tell whether the dotted *name* is a module, or a name in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        stem = "/".join(parts[:end])
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if (ROOT / file).exists():
                return all(re.search(rf"\b{part}\b", read(file)) for part in parts[end:])
    return False


@functools.cache
def classes() -> dict[str, str]:
    """Return for each class of ours the text of the modules that have one of that name."""
    found: dict[str, str] = {}
    for file in files():
        if file.startswith("mimicfs/") and file.endswith(".py"):
            for name in re.findall(r"^\s*class (\w+)", read(file), re.MULTILINE):
                found[name] = found.get(name, "") + read(file)
    return found


def class_has(name: str, member: str) -> bool:
    """Tell whether *member* is a name where the class *name* is, or one that it is based on; also
    for classes of others."""
    text = classes().get(name)
    if text is None or re.search(rf"\b{member}\b", text):
        return True
    bases = re.findall(rf"^class {name}\(([\w, ]+)\)", text, re.MULTILINE)
    ours = {base for each in bases for base in each.split(", ") if base in classes()}
    return any(class_has(base, member) for base in ours)


def anchors(file: str) -> set[str]:
    """Return the anchors of the headings of *file*, as GitHub makes them."""
    found = _HEADING.findall(read(file))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def link_leads_somewhere(said: Said, target: str) -> bool:
    if "://" in target or not said.file.endswith(".md"):
        return True
    path, _, anchor = target.partition("#")
    file = (ROOT / said.file).parent / path if path else ROOT / said.file
    if not file.exists():
        return False
    return not anchor or anchor in anchors(str(file.resolve().relative_to(ROOT)))


def decision_is_there(_: Said, room: str, heading: str) -> bool:
    one_line = re.sub(r"\s+(#\s+)?", " ", heading)
    return one_line in _HEADING.findall(read(f"docs/decisions/{room}.md"))


# What only those who were there know: a list of findings, an exam, an issue of no public tracker.
_INSIDERS = re.compile(r"\bfindings [A-Z]\d|\b(?:the|an) exam\b|(?i:adversary|examiner)\b")

REFERENCES = {
    "path": (_PATH, lambda _, path: path in ends()),
    "place": (_PLACE, lambda _, path: path in ends()),
    "test": (_TEST, lambda _, name: name in named_tests()),
    "module": (_MODULE, lambda _, name: module_has(name)),
    "member": (_MEMBER, lambda _, name, member: class_has(name, member)),
    "link": (_LINK, link_leads_somewhere),
    "decision": (_CITED, decision_is_there),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_every_reference_leads_somewhere(kind):
    assert lost(*REFERENCES[kind]) == []


def test_no_text_refers_to_what_only_its_author_has_seen():
    assert lost(_INSIDERS, lambda *_: False) == []


def test_a_thread_a_program_and_a_mount_are_it():
    """And only people have something of their own that is "his own"."""
    texts = [said for said in prose() if said.file.startswith("mimicfs/")]
    assert lost(re.compile(r"\b(?:[Hh]e|[Hh]is|him)\b(?! own\b)"), lambda *_: False, texts) == []


def test_a_person_or_a_thread_has_a_noun():
    """A sentence begins with "a thread that waits" or "whoever waits", and not with "who waits"."""
    who = re.compile(r"(?:^|[.:;]\s+)Who (?!owns\b|pays\b|answers\b)[a-z]+s\b", re.MULTILINE)
    assert lost(who, lambda *_: False) == []


def test_a_paragraph_of_a_decision_is_read_in_one_breath():
    """At most 620 characters; rows of tables are records of runs."""
    decisions = [file for file in files() if file.startswith("docs/decisions/")]
    lines = [(file, line) for file in decisions for line in read(file).split("\n")]
    assert [it for it in lines if len(it[1]) > 620 and not it[1].startswith("|")] == []


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("path", "see sync/run.py", "see sync/learning.py"),
        ("place", "in `docs/decisions`", "in `shared/reference`"),
        ("test", "mount/test_life.py", "(`test_that_nobody_wrote`)"),
        ("module", "mimicfs.s3.key", "mimicfs.s3.keys"),
        ("module", "mimicfs.s3.key.Key", "mimicfs.s3.key.Lock"),
        ("member", "`Inodes._lock`", "`Inodes._door`"),
        ("link", "[a](decisions/vfs.md)", "[a](decisions/sea.md)"),
        ("link", "[a](design.md#layers)", "[a](design.md#liars)"),
        (
            "decision",
            'docs/decisions/vfs.md, "Cookies are a\n# listing and an index"',
            'docs/decisions/vfs.md, "Cookies are sweet"',
        ),
    ],
)
def test_a_reference_that_leads_nowhere_is_found(kind, good, bad):
    assert lost(*REFERENCES[kind], [Said("docs/indexes.md", 1, good)]) == []
    assert len(lost(*REFERENCES[kind], [Said("docs/indexes.md", 1, bad)])) == 1


def paragraphs(file: str) -> list[str]:
    """Return the paragraphs, items, rows and headings of a document, without its code."""
    text = re.sub(r"^```.*?^```", "", read(file), flags=re.DOTALL | re.MULTILINE)
    found = re.split(r"\n\s*\n|\n(?=[-|#*]|\d+\. )", text)
    return [one.strip() for one in found if one.strip(" |-\n")]


def begins(paragraph: str) -> str:
    """Return what a paragraph is about: its first cell, its bold words, or all of it."""
    about = re.match(r"\|[^|]+\||(?:[-*] )?\*\*.+?\*\*", paragraph)
    return about[0] if about else paragraph


@pytest.mark.parametrize("file", [file for file in files() if file.endswith(".md")])
def test_no_document_says_a_thing_twice(file):
    twice = []
    for _, section in groupby(paragraphs(file), _Section()):
        said = [begins(one) for one in section]
        twice += sorted({one for one in said if said.count(one) > 1})
    assert twice == []


def test_no_docstring_says_a_sentence_twice():
    texts = [said for said in prose() if said.file.startswith("mimicfs/")]
    assert [place for said in texts for place in repeated(said)] == []


def test_a_repeated_sentence_is_found():
    lines = "Return what is held.\n    Return what is held."
    assert repeated(Said("mimicfs/a.py", 3, lines)) == ["mimicfs/a.py:3: Return what is held."]


def repeated(said: Said) -> list[str]:
    """Return the sentences that *said* has more than once, and where it is."""
    found = re.split(r"(?<=[.:;])\s", " ".join(said.text.split()))
    sentences = [one for one in found if len(one) > 11]
    twice = sorted({one for one in sentences if sentences.count(one) > 1})
    return [f"{said.file}:{said.line}: {one}" for one in twice]


class _Section:
    """Numbers the sections of a document as its paragraphs pass by."""

    number = 0

    def __call__(self, paragraph: str) -> int:
        self.number += paragraph.startswith("#")
        return self.number


def test_the_tree_of_errors_is_drawn_as_it_is():
    drawn = re.findall(r"^ *[│ ├└─]*(\w+)  +(E\w+|its cause|given)", errors.__doc__, re.MULTILINE)
    found = [errors.MimicError]
    for one in found:
        found.extend(one.__subclasses__())
    assert sorted(name for name, _ in drawn) == sorted(
        one.__name__ for one in found if one.__module__ == "mimicfs.errors"
    )


def test_the_newest_section_of_the_changelog_is_of_this_version():
    versions = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == mimicfs.__version__


def test_the_first_version_has_changed_and_fixed_nothing():
    """Nobody has had an older one: what it had wrong is not of users."""
    first = read("CHANGELOG.md").rpartition("\n## ")[2]
    assert re.findall(r"^### (.*)$", first, re.MULTILINE) == ["Added"]


def test_the_drawing_of_the_rooms_is_that_of_their_imports():
    """Mend it by `scripts/rooms --write`."""
    assert rooms.drawing() == rooms.drawn()


def test_each_room_says_what_is_in_it() -> None:
    missing = [
        f"{room.relative_to(ROOT)}: {module}"
        for room in (ROOT / "mimicfs").rglob("__init__.py")
        if room.parent.name != "mimicfs"  # docs/design.md has these
        for module in sorted(
            {path.stem for path in room.parent.glob("*.py")}
            | {path.parent.name for path in room.parent.glob("*/__init__.py")}
        )
        if not module.startswith("__")
        and not re.search(rf"\b{module}\b", ast.get_docstring(ast.parse(room.read_text())) or "")
    ]
    assert missing == []
