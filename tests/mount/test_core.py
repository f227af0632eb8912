"""The process of a mount, as such."""

import resource
import subprocess
import sys

_CODE = (
    "import resource; from mimicfs.mount import process; process.set_up();"
    "print(resource.getrlimit(resource.RLIMIT_CORE))"
)


def test_no_core_goes_to_a_file_or_to_a_program():
    """core(5): for a program, a limit of 0 means nothing. The kernel starts none at 1."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    for before, limits in [("", "(1, 1)" if hard else "(0, 0)"), ("ulimit -Hc 0; ", "(0, 0)")]:
        words = ["sh", "-c", f"{before}exec {sys.executable} -c '{_CODE}'"]
        assert subprocess.check_output(words, text=True) == f"{limits}\n"
