"""What is shipped: the wheel, the manual page, completion in the shells."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.mounts import MIMICFS, run, succeed

from mimicfs.backends.sqlite import SQLite
from mimicfs.cli import cli
from mimicfs.entry import Entry

ROOT = Path(__file__).resolve().parents[2]


def commands(group: click.Group, path: str = "mimicfs") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def test_the_manual_page_has_every_command_and_option() -> None:
    """If not: scripts/manual writes it."""
    page = (ROOT / "docs/man/mimicfs.1").read_text().replace("\\-", "-")
    for path, command in commands(cli):
        assert f'"{path}' in page
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert parameter.opts[-1] in page, path


def test_the_manual_page_is_without_mistakes() -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    words = ["man", "--warnings", "-l", str(ROOT / "docs/man/mimicfs.1")]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert shown.stderr == ""
    assert "mimicfs - S3 as a file system" in shown.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path) -> None:
    source, clean = tmp_path / "source", tmp_path / "clean"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "tests", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)

    def do(*words: str | Path) -> str:
        environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            words,
            cwd=tmp_path,
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    do(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", source)
    wheel = next((source / "dist").glob("*.whl"))
    do(sys.executable, "-m", "venv", "--without-pip", clean)
    python = clean / "bin/python"
    do(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    # What it needs comes from here; mimicfs itself does not.
    where = do(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
    (Path(where) / "needed.pth").write_text("\n".join(site.getsitepackages()))
    assert do(clean / "bin/mimicfs", "--version").startswith("mimicfs 0.2.0\nPython ")
    found = do(python, "-c", "import mimicfs.library; print(mimicfs.library.__file__)")
    assert Path(found.strip()).is_relative_to(clean)
    for name in ("man/man1/mimicfs.1", "zsh/site-functions/_mimicfs", "doc/mimicfs/operations.md"):
        assert (clean / "share" / name).is_file()
    do(clean / "bin/mimicfs", "install-helper", "--directory", tmp_path)
    assert os.readlink(tmp_path / "mount.mimicfs") == str(clean / "bin/mount.mimicfs")


@pytest.mark.slow
def test_python_m_mimicfs_is_the_command() -> None:
    words = [sys.executable, "-m", "mimicfs", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == succeed("--version")


@pytest.mark.slow
def test_without_redis_py_the_mirror_in_redis_says_what_to_install() -> None:
    program = "import sys; sys.modules['redis'] = None\n"
    library = "import mimicfs\ntry: mimicfs.MimicDB()\nexcept Exception as exc: print(exc)"
    words = [sys.executable, "-c", program + library]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    wanted = "the mirror in Redis needs redis-py: pip install 'mimicfs[redis]'\n"
    assert done.stdout == wanted
    command = "sys.argv[1:] = ['ls', '--store', 'redis://x']\nimport mimicfs.cli as c; c.main()"
    words = [sys.executable, "-c", program + command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (2, f"mimicfs: {wanted}")


@pytest.mark.slow
def test_completion_is_shipped_as_it_is_printed() -> None:
    for shell, name in (("bash", "mimicfs"), ("zsh", "_mimicfs"), ("fish", "mimicfs.fish")):
        assert succeed("completion", shell) == (ROOT / "docs/completion" / name).read_text()
    assert run("completion", "tcsh").returncode == 2


@pytest.mark.slow
def test_bash_completes_commands_values_and_keys(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        program = f"""
        source {ROOT}/docs/completion/mimicfs
        compopt() {{ :; }}
        COMP_LINE='{line}' COMP_POINT={len(line)}
        _mimicfs_completion mimicfs
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        environ = {**os.environ, "PATH": f"{MIMICFS.parent}:{os.environ['PATH']}"}
        words = ["bash", "-c", program]
        return subprocess.check_output(words, env=environ, text=True, timeout=30).splitlines()

    assert {"mount", "umount"} <= set(completed("mimicfs "))
    assert completed("mimicfs mou") == ["mount"]
    # A word ends at = and : in bash: only what is behind is to come.
    assert completed("mimicfs mount -o ro,consistency=o") == ["open"]
    store = f"sqlite://{tmp_path}/a.db"
    backend = SQLite(f"{tmp_path}/a.db")
    backend.apply("photos", [Entry("2024/a b", 1)])
    backend.close()
    assert completed(f"mimicfs ls --store {store} s3://pho") == ["//photos/"]
    assert completed(f"mimicfs ls --store {store} s3://photos/2024/a") == ["//photos/2024/a\\ b"]
