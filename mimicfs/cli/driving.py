"""`mimicfs csi`: the driver for Kubernetes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mimicfs import errors
from mimicfs.cli.options import PlainPath, of_this_machine
from mimicfs.config.values import Settings


@click.command()
@click.option(
    "--endpoint",
    envvar="CSI_ENDPOINT",
    default="unix:///csi/csi.sock",
    show_default=True,
    metavar="unix:///PATH",
    help="Where kubelet asks; also CSI_ENDPOINT.",
)
@click.option(
    "--node-id",
    default=lambda: os.uname().nodename,
    metavar="NAME",
    help="The name of this node.  [default: its host name]",
)
@click.option(
    "--driver-name",
    default="csi.mimicfs",
    show_default=True,
    metavar="NAME",
    help="What manifests call the driver.",
)
@click.option(
    "--state-dir",
    type=PlainPath(),
    default=Path("/var/lib/mimicfs-csi"),
    show_default=True,
    help="Mirrors, and bytes that S3 does not have yet: it must outlive the container.",
)
@click.option(
    "--upload-timeout",
    type=click.FloatRange(1),
    default=90.0,
    show_default=True,
    metavar="SECONDS",
    help="How long uploads may take when a volume is unpublished; then kubelet must try again.",
)
@of_this_machine
def csi(
    settings: Settings,
    endpoint: str,
    node_id: str,
    driver_name: str,
    state_dir: Path,
    upload_timeout: float,
) -> None:
    """Mount volumes where Kubernetes wants them: a driver of the Container Storage Interface.

    The driver runs on each node, as root; deploy/kubernetes has the manifests.

    \b
    mimicfs csi --endpoint unix:///csi/csi.sock --node-id "$NODE_NAME"
    """
    from dataclasses import replace

    from mimicfs.admin import logs

    if os.geteuid() != 0:
        raise errors.MountError("a driver mounts for others: run it as root")
    if settings.log_level == "warning":
        settings = replace(settings, log_level="info")
    logs.set_up_by(settings, foreground=True)
    try:
        from mimicfs.csi.server import Plugin, serve
    except ImportError as exc:
        text = f"the driver needs {exc.name}: pip install 'mimicfs[csi]'"
        raise errors.ConfigError(text) from exc
    serve(endpoint, Plugin(driver_name, node_id, upload_timeout), state_dir.absolute())
