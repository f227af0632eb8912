"""The process of a mount, as such."""

import subprocess
import sys

_CODE = (
    "import resource; from mimicfs.mount import process; process.set_up();"
    "print(resource.getrlimit(resource.RLIMIT_CORE))"
)


def test_no_core_goes_to_a_file_or_to_a_program():
    """core(5): for a program, a limit of 0 means nothing. The kernel starts none at 1, to which
    only root (CAP_SYS_RESOURCE) may raise a hard limit of 0."""
    no_core = "ulimit -Hc 0; "
    raised = subprocess.run(
        ["sh", "-c", f"{no_core} ulimit -Hc 1"], check=False, capture_output=True
    )
    for before, may in [("", True), (no_core, raised.returncode == 0)]:
        words = ["sh", "-c", f"{before}exec {sys.executable} -c '{_CODE}'"]
        limits = "(1, 1)" if may else "(0, 0)"
        assert subprocess.check_output(words, text=True) == f"{limits}\n"
