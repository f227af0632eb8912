"""`mimicfs verify`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mimicfs.cli.mirror import described
from mimicfs.cli.options import assembled, bucket_of, common, completes_urls, json_option
from mimicfs.cli.progress import bar
from mimicfs.human import iso_time, number_of, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.index.verify import Drift, Verified

_WORDS = {"missing": "not in the mirror", "extra": "not in S3", "changed": "differs"}


@click.command()
@click.argument("url", metavar="s3://BUCKET[/PREFIX]", shell_complete=completes_urls)
@click.option("--repair", is_flag=True, help="Correct the mirror, as `mimicfs sync` does.")
@click.option(
    "--samples",
    type=click.IntRange(-1),
    default=10,
    show_default=True,
    metavar="N",
    help="Print the first N keys of each kind; -1 prints all.",
)
@json_option
@common
def verify(settings: Settings, url: str, repair: bool, samples: int, as_json: bool) -> None:
    """List everything below the prefix in S3, and print how the mirror differs from it.

    \b
    Exit code: 0 no drift; 1 drift, even if it was repaired; 8 the mirror knows nothing yet;
    others are errors.

    Keys in directories that were never listed are counted separately and are no drift. Neither
    are keys that change during the comparison.
    """
    from mimicfs.index.verify import verify

    target = bucket_of(url)
    shown: Counter[str] = Counter()

    def show(drift: Drift) -> None:
        shown[drift.kind] += 1
        if samples < 0 or shown[drift.kind] <= samples:
            _print_drift(target.bucket, drift, as_json)

    with closing(assembled(settings)) as parts:
        parts.s3.check_credentials()
        known = parts.mimicdb.known_bucket(target.bucket)
        length = known.objects if known is not None and not target.prefix else None
        with bar(str(target), length) as more:
            report = verify(
                parts.mimicdb,
                parts.s3,
                target.bucket,
                target.prefix,
                repair=repair,
                found=show,
                progress=more,
            )
    _print_report(report, repair, as_json)
    if report.drift:
        sys.exit(1)


def _print_drift(bucket: str, drift: Drift, as_json: bool) -> None:
    if as_json:
        told: dict[str, Any] = {"drift": drift.kind, "bucket": bucket, "key": drift.key}
        told |= {
            "differs": drift.fields,
            "mirror": described(drift.mirror) if drift.mirror else None,
            "s3": described(drift.s3) if drift.s3 else None,
        }
        click.echo(json.dumps(told))
        return
    what = f" ({', '.join(drift.fields)})" if drift.fields else ""
    click.echo(f"{_WORDS[drift.kind]}{what}: {printable(f's3://{bucket}/{drift.key}')}")


def _print_report(report: Verified, repair: bool, as_json: bool) -> None:
    synced = iso_time(report.synced_ns) if report.synced_ns is not None else "never, as a whole"
    if as_json:
        told = asdict(report)
        del told["synced_ns"]
        click.echo(json.dumps({**told, "synced": synced, "repaired": repair}))
        return
    scope = printable(f"s3://{report.bucket}/{report.prefix}")
    click.echo(
        f"{scope}: {number_of(report.keys, 'key')} in S3, {report.known:,} in the"
        f" mirror (synced {synced}): {report.missing} not in the mirror, {report.extra} not in"
        f" S3, {report.changed} differ{'; repaired' if repair and report.drift else ''}"
    )
    if report.unlisted:
        found = number_of(report.unlisted, "key")
        click.echo(f"of those in S3, {found} in directories that were never listed")
    if report.meanwhile:
        found = number_of(report.meanwhile, "key")
        click.echo(f"changed during the comparison, and not compared: {found}")
