"""The parts that are shipped: the wheel, the manual page, completion in the shells."""

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


def test_the_manual_page_is_what_the_help_says_now() -> None:
    """If not: scripts/manual writes it."""
    words = [sys.executable, str(ROOT / "scripts" / "manual"), "--print"]
    printed = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout
    assert (ROOT / "docs/man/mimicfs.1").read_text() == printed


def test_the_manual_page_is_without_mistakes() -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    words = ["man", "--warnings", "-l", str(ROOT / "docs/man/mimicfs.1")]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert shown.stderr == ""
    assert "mimicfs - S3 as a file system" in shown.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("wheel") / "source"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "tests", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "-q",
        "--wheel",
        "--no-isolation",
        source,
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=100)
    return next((source / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(tmp_path: Path, wheel: Path) -> None:
    clean = tmp_path / "clean"

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

    do(sys.executable, "-m", "venv", "--without-pip", clean)
    python = clean / "bin/python"
    do(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel)
    # Its libraries come from here; mimicfs itself does not.
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
def test_the_debian_package_has_everything_at_its_place(tmp_path: Path, wheel: Path) -> None:
    """But for the libraries. `scripts/package --test` installs the whole in clean roots."""
    deb = subprocess.check_output([ROOT / "scripts/deb", wheel, tmp_path, "--bare"], text=True)

    def told(*words: str) -> str:
        return subprocess.check_output(["dpkg-deb", *words], text=True, timeout=30)

    assert told("-f", deb.strip(), "Package", "Version", "Architecture", "Depends") == (
        "Package: mimicfs\nVersion: 0.2.0\nArchitecture: all\n"
        "Depends: python3 (>= 3.11), python3 (<< 3.15~), fuse3\n"
    )
    lines = [line.split(None, 5) for line in told("-c", deb.strip()).splitlines()]
    assert {owner for _, owner, *_ in lines} == {"root/root"}
    modes = {name.split(" -> ")[0]: mode for mode, *_, name in lines}
    links = dict(name.split(" -> ") for *_, name in lines if " -> " in name)
    assert links["./usr/bin/mimicfs"] == "/opt/mimicfs/bin/mimicfs"
    assert links["./usr/sbin/mount.fuse.mimicfs"] == "/opt/mimicfs/bin/mount.mimicfs"
    assert links["./usr/sbin/umount.mimicfs"] == "/opt/mimicfs/bin/umount.mimicfs"
    assert {links[f"./opt/mimicfs/lib/python3.{minor}"] for minor in range(11, 15)} == {"python3"}
    assert modes["./opt/mimicfs/bin/mount.mimicfs"] == "-rwxr-xr-x"
    assert modes["./etc/mimicfs/config.toml"] == "-rw-------"
    for name in (
        "./opt/mimicfs/lib/python3/site-packages/mimicfs/cli/__init__.py",
        "./usr/share/man/man1/mimicfs.1.gz",
        "./usr/share/bash-completion/completions/mimicfs",
        "./usr/share/zsh/vendor-completions/_mimicfs",
        "./usr/share/fish/vendor_completions.d/mimicfs.fish",
        "./usr/lib/systemd/system/mimicfs@.service",
        "./usr/share/doc/mimicfs/copyright",
    ):
        assert modes[name] == "-rw-r--r--"
    assert told("-I", deb.strip(), "conffiles") == "/etc/mimicfs/config.toml\n"
    for script in ("postinst", "prerm", "postrm"):
        said = told("-I", deb.strip(), script)
        subprocess.run(["sh", "-n"], input=said, text=True, check=True, timeout=10)
    top = {name.split("/")[1] for name in modes if name != "./"}
    assert top == {"etc", "opt", "usr"}


LATE = """
import ast, importlib.util, sys
import mimicfs.mount.serving
from mimicfs.mount import process
process._import_rest()
rooms = tuple(f"{room}." for room in process._USED_LATE)
for name in [name for name in sys.modules if name.startswith(rooms)]:
    for node in ast.walk(ast.parse(open(sys.modules[name].__file__).read())):
        module = getattr(node, "module", None) or ""
        if module.startswith(rooms) and module not in sys.modules:
            print(name, module)
"""


@pytest.mark.slow
def test_a_mount_imports_nothing_of_its_rooms_after_an_upgrade() -> None:
    """A module that is imported when it is first used would come from the new version."""
    words = [sys.executable, "-c", LATE]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ""


@pytest.mark.slow
def test_a_mount_looks_for_garbage_from_when_it_answers() -> None:
    program = "import gc; from mimicfs.mount import process as p; p.set_up(); a = gc.isenabled();"
    words = [sys.executable, "-c", f"{program} p.settle(); print(a, gc.isenabled())"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "False True\n"


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
