"""Programs that people use, in the mount: what they do on any disk, they do here."""

import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SOURCES = Path(__file__).parent.parent / "support"  # a small tree of real files


def run(*words, cwd, **environment):
    """Run a program; return what it said. It must succeed, and say nothing on stderr."""
    result = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "LC_ALL": "C", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, ""), f"{words}: {result}"
    return result.stdout


def files(path):
    """Every file below *path*: name, bytes, mode and time."""
    return {
        str(file.relative_to(path)): (file.read_bytes(), file.stat().st_mode, file.stat().st_mtime)
        for file in Path(path).rglob("*")
        if file.is_file()
    }


@pytest.fixture
def tree(tmp_path):
    """A tree on a local disk, with an executable, an empty file and deep directories."""
    path = tmp_path / "tree"
    shutil.copytree(SOURCES, path, ignore=shutil.ignore_patterns("__pycache__"))
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/run").write_text("#!/bin/sh\n")
    (path / "deep/er/run").chmod(0o755)
    (path / "empty").touch()
    (path / "large").write_bytes(os.urandom(1 << 20))
    os.utime(path / "empty", ns=(0, 1_500_000_000_123_456_789))
    return path


def git(*words, cwd):
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in _WHO}
    return run("git", "-c", "init.defaultBranch=main", *words, cwd=cwd, **names)


_WHO = ("NAME", "EMAIL")


def test_git_commits_clones_packs_and_finds_nothing_wrong(here, tree):
    shutil.copytree(tree, here / "repo")
    repo = here / "repo"
    git("init", "-q", cwd=repo)
    git("add", "-A", cwd=repo)
    git("commit", "-q", "-m", "one", cwd=repo)
    (repo / "empty").write_text("not any more")
    git("commit", "-q", "-a", "-m", "two", cwd=repo)
    git("clone", "-q", "repo", "clone", cwd=here)
    assert git("log", "--format=%s", cwd=here / "clone") == "two\none\n"
    assert git("status", "--short", cwd=here / "clone") == ""
    git("gc", "-q", cwd=repo)
    assert git("fsck", "--full", "--strict", cwd=repo) == ""
    assert git("status", "--short", cwd=repo) == ""
    assert (here / "clone/large").read_bytes() == (tree / "large").read_bytes()


def test_tar_unpacks_and_compares(here, tree, tmp_path):
    run("tar", "--format=posix", "-cf", tmp_path / "t.tar", "-C", tree, ".", cwd=tmp_path)
    run("tar", "xf", tmp_path / "t.tar", cwd=here)
    assert run("tar", "df", tmp_path / "t.tar", cwd=here) == ""
    assert files(here) == files(tree)
    run("tar", "--format=posix", "-czf", "own.tgz", "deep", "large", cwd=here)
    assert run("tar", "dzf", "own.tgz", cwd=here) == ""


def test_a_second_rsync_copies_nothing(here, tree):
    words = ("rsync", "-a", "--itemize-changes", f"{tree}/", f"{here}/")
    assert run(*words, cwd=here).count(">f") == len(files(tree))
    assert run(*words, cwd=here) == ""
    assert run(*words, "--checksum", cwd=here) == ""
    (tree / "empty").write_text("changed")
    assert run(*words, cwd=here).split()[1:] == ["empty"]


def test_cp_a_keeps_bytes_modes_and_times(here, tree):
    run("cp", "-a", tree, "in", cwd=here)
    run("cp", "-a", "in", "within", cwd=here)
    run("cp", "-a", "within", tree.parent / "out", cwd=here)
    assert files(here / "in") == files(here / "within") == files(tree.parent / "out") == files(tree)


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_sqlite_inserts_a_thousand_rows_and_is_sound(here, shared, tmp_path, journal):
    path = here / "rows.db"
    with sqlite3.connect(path) as database:
        mode = database.execute(f"PRAGMA journal_mode={journal}").fetchone()
        assert mode == (journal,)
        database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, text TEXT)")
        for start in range(0, 1000, 100):
            rows = [(n, f"row {n}" * 5) for n in range(start, start + 100)]
            database.executemany("INSERT INTO rows VALUES (?, ?)", rows)
            database.commit()
        with pytest.raises(sqlite3.IntegrityError):
            database.execute("INSERT INTO rows VALUES (1, '')")
        database.rollback()
    database.close()
    (tmp_path / "copy.db").write_bytes(shared.body(path))
    for place in (path, tmp_path / "copy.db"):
        database = sqlite3.connect(place)
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("SELECT count(*), sum(number) FROM rows").fetchone() == (
            1000,
            499500,
        )
        database.close()


def test_pip_installs_into_a_target(here, tmp_path):
    wheel = tmp_path / "own-1.0-py3-none-any.whl"
    info = "own-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("own/__init__.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    python = sys.executable
    words = ("-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check")
    run(python, *words, "--root-user-action=ignore", "--target", here / "site", wheel, cwd=tmp_path)
    said = run(
        *(python, "-c", "import own; print(own.answer, own.__file__)"),
        cwd=tmp_path,
        PYTHONPATH=str(here / "site"),
    )
    assert said == f"42 {here}/site/own/__init__.py\n"


def test_an_editor_saves_by_rename_and_in_place(here, shared):
    note = here / "note"
    note.write_text("one\n")
    note.chmod(0o640)
    # As vim does with backupcopy=no: the old file becomes the backup, the new one is written.
    note.rename(here / "note~")
    descriptor = os.open(note, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640)
    os.write(descriptor, b"two\n")
    os.fsync(descriptor)
    os.close(descriptor)
    (here / "note~").unlink()
    assert (shared.body(note), os.listdir(here)) == (b"two\n", ["note"])
    run("sed", "-i", "s/two/three/", "note", cwd=here)
    assert (shared.body(note), os.listdir(here)) == (b"three\n", ["note"])
    assert note.stat().st_mode == 0o100640


def test_zip_grows_an_archive(here, shared):
    for name in ("a", "b"):
        (here / name).write_text(name * 1000)
    run("zip", "-q", "own.zip", "a", cwd=here)
    run("zip", "-q", "own.zip", "b", cwd=here)
    with zipfile.ZipFile(here / "own.zip", "a") as archive:
        archive.writestr("c", "c" * 1000)
    with zipfile.ZipFile(here / "own.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a", "b", "c"]
    assert sorted(os.listdir(here)) == ["a", "b", "own.zip"]


def test_make_and_find_believe_the_times(here):
    (here / "Makefile").write_text("out: in\n\tcp in out\n")
    (here / "in").write_text("one")
    assert run("make", cwd=here) == "cp in out\n"
    assert run("make", cwd=here) == "make: 'out' is up to date.\n"
    assert run("find", ".", "-newer", "out", "-type", "f", cwd=here) == ""
    (here / "in").write_text("two")
    assert run("find", ".", "-newer", "out", "-type", "f", cwd=here) == "./in\n"
    assert run("make", cwd=here) == "cp in out\n"
    assert (here / "out").read_text() == "two"
