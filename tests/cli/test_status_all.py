"""`mimicfs status --all` takes nothing that it has no use for. Nothing is asked."""

import pytest
from click.testing import CliRunner

from mimicfs.cli import watching


@pytest.mark.parametrize("more", [["/mnt"], ["--watch"], ["--timeout", "5"]])
def test_all_is_not_of_one_mount_nor_again_and_again(state, tmp_path, more):
    words = ["--all", "--store", f"sqlite://{tmp_path}/s.db", *more]
    result = CliRunner().invoke(watching.status, words)
    text = "Error: --all asks the store; leave out MOUNTPOINT, --watch and --timeout"
    assert (result.exit_code, result.output.splitlines()[-1]) == (2, text)
