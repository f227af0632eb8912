"""deploy/: what is written there is understood by those who read it, as far as no container
runtime is needed for that."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from click import Context

from mimicfs.cli import cli

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def called(words):
    """Parse what the image is given after its entry point, as `mimicfs` would."""
    command = cli.get_command(Context(cli), words[0])
    command.make_context(words[0], list(words[1:]))


def containers(path):
    """Return what runs our image, and with which words, in compose.yaml or a manifest."""
    for document in yaml.safe_load_all(path.read_text()):
        for service in document.get("services", {}).values():
            if "build" in service:
                yield service["command"], []
        pod = document.get("spec", {})
        pod = pod.get("template", pod).get("spec", pod) if "template" in pod else pod
        for each in [*pod.get("initContainers", []), *pod.get("containers", [])]:
            if each["image"].startswith("mimicfs:"):
                yield each["args"], each.get("startupProbe", {}).get("exec", {}).get("command", [])


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_containers_call_commands_that_exist(path):
    found = list(containers(path))
    for words, probe in found:
        called([re.sub(r"\$\{(\w+)[^}]*\}", r"\1", word) for word in words])
        if probe:
            called(probe[1:])
    assert found


def test_the_dockerfile_installs_extras_that_exist_and_runs_as_nobody_special():
    text = (DEPLOY / "Dockerfile").read_text()
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = re.findall(r"/source\[([\w,]+)\]", text)[0].split(",")
    assert set(extras) <= set(setup["options.extras_require"])
    assert re.findall(r"^USER (\w+)$", text, re.MULTILINE) == ["mimicfs"]
    for line in re.findall(r"^(?:CMD|.* CMD) (\[.*\])$", text, re.MULTILINE):
        words = yaml.safe_load(line)
        called(words[1:] if words[0] == "mimicfs" else words)
