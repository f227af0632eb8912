"""deploy/: what is written there is understood by those who read it, as far as no container
runtime is needed for that."""

import re
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from click import Context

from mimicfs.cli import cli
from mimicfs.cli.driving import csi
from mimicfs.csi.asked import publishing
from mimicfs.csi.protocol import MESSAGES
from mimicfs.csi.server import socket_path

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


CALLING = [path for path in sorted(DEPLOY.rglob("*.yaml")) if "image: mimicfs" in path.read_text()
           or "build:" in path.read_text()]  # fmt: skip


@pytest.mark.parametrize("path", CALLING, ids=lambda path: path.name)
def test_containers_call_commands_that_exist(path):
    found = list(containers(path))
    for words, probe in found:
        called([re.sub(r"\$\{(\w+)[^}]*\}", r"\1", word) for word in words])
        if probe:
            called(probe[1:])
    assert found


def documents(name):
    """Return the documents of a manifest by their kind."""
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text()))
    by_kind = {each["kind"]: each for each in found}
    assert len(by_kind) == len(found)
    return by_kind


def test_the_manifests_of_the_driver_fit_together():
    made = documents("csi.yaml")
    driver, pod = made["CSIDriver"], made["DaemonSet"]["spec"]["template"]["spec"]
    ours, registrar = pod["containers"]
    words = dict(word.removeprefix("--").split("=", 1) for word in ours["args"][1:])
    (kubelet,) = ours["volumeMounts"]
    socket = socket_path(words["endpoint"])
    assert f"--kubelet-registration-path={socket}" in registrar["args"]
    assert str(socket.parent) in [each["hostPath"]["path"] for each in pod["volumes"]]
    assert kubelet["mountPropagation"] == "Bidirectional"
    for path in (str(socket), words["state-dir"]):
        assert path.startswith(kubelet["mountPath"] + "/")
    assert words["node-id"] == "$(NODE_NAME)"
    assert [each["name"] for each in ours["env"]] == ["NODE_NAME"]
    assert (driver["spec"]["podInfoOnMount"], driver["spec"]["requiresRepublish"]) == (True, True)
    (option,) = [each for each in csi.params if each.name == "driver_name"]
    assert driver["metadata"]["name"] == option.default


def test_the_volumes_of_the_example_are_what_the_driver_takes():
    made = documents("csi-volumes.yaml")
    secrets = made["Secret"]["stringData"]
    persistent = made["PersistentVolume"]["spec"]
    (inline,) = [each["csi"] for each in made["Pod"]["spec"]["volumes"] if "csi" in each]
    ephemeral = {"csi.storage.k8s.io/ephemeral": "true"}
    for volume, options, context in (
        (persistent["csi"], persistent["mountOptions"], {}),
        (inline, [], ephemeral),
    ):
        assert volume["driver"] == documents("csi.yaml")["CSIDriver"]["metadata"]["name"]
        assert volume["nodePublishSecretRef"]["name"] == made["Secret"]["metadata"]["name"]
        group = str(made["Pod"]["spec"]["securityContext"]["fsGroup"])
        asked = publishing(
            MESSAGES["NodePublishVolumeRequest"](
                volume_id="v",
                target_path="/pods/p",
                volume_capability={
                    "mount": {"mount_flags": options, "volume_mount_group": group},
                    "access_mode": {"mode": 5},
                },
                secrets=secrets,
                volume_context={**volume["volumeAttributes"], **context},
            )
        )
        assert asked.how.url in ("s3://photos/2024/", "s3://scratch/")
        assert asked.how.words[-2:] == ("gid=1000", "umask=002")


def test_the_dockerfile_installs_extras_that_exist_and_runs_as_nobody_special():
    text = (DEPLOY / "Dockerfile").read_text()
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = re.findall(r"/source\[([\w,]+)\]", text)[0].split(",")
    assert set(extras) <= set(setup["options.extras_require"])
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["1000:1000"]
    for line in re.findall(r"^(?:CMD|.* CMD) (\[.*\])$", text, re.MULTILINE):
        words = yaml.safe_load(line)
        called(words[1:] if words[0] == "mimicfs" else words)


def test_an_image_is_built_of_all_that_the_package_is_made_of():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    told = "\n".join(setup["options.data_files"].values()).split()
    told += ["README.md", setup["metadata"]["license_files"], "mimicfs/", "setup.cfg"]
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    taken = {line[1:] for line in lines if line.startswith("!")}
    assert {path.partition("/")[0] for path in told} | {"pyproject.toml"} == taken
    assert lines[1] == "*"
