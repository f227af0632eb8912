"""Each option of mimicfs that deploy/ names is there."""

import re
from pathlib import Path

from mimicfs.config.options import OPTIONS

DOCKERFILE = Path(__file__).parents[2] / "deploy/Dockerfile"


def test_the_comments_of_the_dockerfile_name_options_that_exist():
    comments = [it for it in DOCKERFILE.read_text().splitlines() if "mimicfs" not in it]
    (line,) = [it for it in comments if it.startswith('# "metrics":')]
    assert re.findall(r"--([a-z-]+)", line) == ["metrics"]
    assert "metrics" in {option.name for option in OPTIONS}
