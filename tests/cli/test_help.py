"""The output on a terminal: help, and how far a sync is."""

import re
from pathlib import Path

import pytest
import rich.progress
from click.testing import CliRunner

from mimicfs.cli import EXIT_STATUS, cli, exit_code
from mimicfs.cli.syncing import _Bar
from mimicfs.errors import MimicError, MountError
from mimicfs.sync import Progress


def shown(*words):
    return CliRunner().invoke(cli, words, prog_name="mimicfs").output


def test_help_shows_all_of_each_sentence_and_puts_it_under_headings():
    text = shown("--help")
    assert not re.search(r"\w\.\.\.", text)  # nothing is cut
    assert "  umount     Unmount MOUNTPOINT\n" in text
    headings = [line for line in text.splitlines() if re.fullmatch(r"[A-Z][^:]*:", line)]
    assert headings[-4:] == [
        *("Mounting:", "The mirror, without a mount:", "Versions:", "Setting up:"),
    ]
    mount = shown("mount", "--help")
    assert "  mimicfs mount s3://photos/2024 ~/photos --profile work -o ro,uid=alice" in mount
    assert mount.index("\nS3:\n") < mount.index("--endpoint-url") < mount.index("\nRequests:\n")
    assert mount.index("\nWhat is written:\n") < mount.index("--write-back")


def test_help_shows_the_options_that_matter_for_a_command_and_it_takes_the_others():
    names = {name: set(re.findall(r"--[\w-]+", shown(name, "--help"))) for name in ("umount", "ls")}
    assert names["umount"] == {"--lazy", "--config", "--help"}
    assert {"--endpoint-url", "--profile", "--store"} <= names["ls"]
    assert not {"--attempts", "--dualstack"} & names["ls"]
    with pytest.raises(MountError, match="/nowhere: not mounted"):
        CliRunner().invoke(cli, ["umount", "--attempts", "2", "/nowhere"], standalone_mode=False,
                           catch_exceptions=False)  # fmt: skip


def test_the_bar_of_a_sync_does_not_look_finished_before_a_total_is_known():
    bar = _Bar()
    bar._progress = rich.progress.Progress()
    for keys, expected in ((0, 0), (10, 0), (20, 15), (30, 40)):
        bar.show(Progress("b", "", 0, keys, expected=expected))
        (task,) = bar._progress.tasks
        assert task.total == {0: None, 10: None, 20: 20, 30: 40}[keys]


def test_each_exit_code_has_a_meaning_which_the_page_on_operations_has_too():
    kinds = [MimicError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    codes = {exit_code(each.__new__(each)) for each in kinds if each.__module__ == "mimicfs.errors"}
    assert {0} | codes == set(EXIT_STATUS)
    page = (Path(__file__).resolve().parents[2] / "docs/operations.md").read_text()
    told = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert {int(code): text.replace("`", "") for code, text in told} == {
        code: text.replace("`", "") for code, text in EXIT_STATUS.items()
    }
