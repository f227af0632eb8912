"""`mimicfs status`, `log-level` and `set`: ask the processes that serve mounts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimicfs import errors
from mimicfs.admin.logs import LEVELS
from mimicfs.admin.sources import failure
from mimicfs.admin.troubles import of_part
from mimicfs.cli.options import (
    PlainPath,
    completes_limits,
    completes_mount_points,
    json_option,
    of_this_machine,
)
from mimicfs.cli.progress import in_place
from mimicfs.cli.text import number_text
from mimicfs.config.values import ANSWER_S
from mimicfs.human import ago, amount, bytes_a_second, duration, iso_time, number_of, printable

if TYPE_CHECKING:
    from mimicfs.config.values import Settings
    from mimicfs.mount.mounted import Mounted

_WATCH_S = 2.0  # between two looks
_MOUNTS_AT_ONCE = 16
_BUCKETS_SHOWN = 20

StatusAnswer = dict[str, Any]


@click.command()
@click.argument(
    "mountpoint",
    required=False,
    type=PlainPath(),
    shell_complete=completes_mount_points,
)
@click.option(
    "--all",
    "all_",
    is_flag=True,
    help="Show all mounts and programs that use the store, on any machine.",
)
@click.option("-w", "--watch", is_flag=True, help="Refresh the display until Ctrl-C.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=ANSWER_S,
    show_default=True,
    metavar="SECONDS",
    help="How long a mount may take to answer.",
)
@json_option
@of_this_machine
def status(
    settings: Settings,
    mountpoint: Path | None,
    all_: bool,
    watch: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Print the mounts, their work, and the contents of their mirrors.

    The command asks all mounts at once and marks each one that does not answer in time. It exits
    with 3 if the mount at MOUNTPOINT is one of those. With --all, it asks the store for all of
    its users on any machine; give the --store that the mounts use.
    """
    if all_:
        _refuse_with_all(mountpoint, watch)
        _all(settings, as_json)
        return
    if watch:
        _watch(settings, mountpoint, timeout, as_json)
        return
    told = status_of_mounts(settings, mountpoint, timeout)
    if as_json:
        click.echo(json.dumps(told))
    else:
        click.echo(_shown(told))
    if mountpoint is not None and told[0]["error"]:
        sys.exit(3)


def _refuse_with_all(mountpoint: Path | None, watch: bool) -> None:
    """Raise UsageError if an option or argument was written for which --all has no use."""
    from click.core import ParameterSource

    source = click.get_current_context().get_parameter_source("timeout")
    if mountpoint is not None or watch or source is not ParameterSource.DEFAULT:
        raise click.UsageError("--all asks the store; leave out MOUNTPOINT, --watch and --timeout")


def _all(settings: Settings, as_json: bool) -> None:
    from mimicfs.cli import members

    store, told = members.sessions_of_store(settings)
    click.echo(json.dumps(told) if as_json else members.shown(store, told))


@click.command("log-level")
@click.argument("mountpoint", type=PlainPath(), shell_complete=completes_mount_points)
@click.argument(
    "level",
    required=False,
    shell_complete=lambda ctx, param, word: [it for it in LEVELS if it.startswith(word)],
)
@of_this_machine
def log_level(settings: Settings, mountpoint: Path, level: str | None) -> None:
    """Set how much the mount at MOUNTPOINT logs: debug, info, warning or error.

    Without LEVEL, print the present level.
    """
    more = {} if level is None else {"level": level}
    click.echo(asked(settings, mountpoint)("log-level", **more))


@click.command("set")
@click.argument("mountpoint", type=PlainPath(), shell_complete=completes_mount_points)
@click.argument("changes", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=completes_limits)
@json_option
@of_this_machine
def set_(settings: Settings, mountpoint: Path, changes: tuple[str, ...], as_json: bool) -> None:
    """Change limits of the mount at MOUNTPOINT while it runs, or print them.

    \b
    mimicfs set ~/s3 download-limit=10M upload-limit=off
    mimicfs set ~/s3 request-rate=50 max-requests-per-day=100000
    """
    values = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals:
            raise errors.ConfigError(f"{change}: write NAME=VALUE")
        values[name.replace("_", "-")] = value
    told = asked(settings, mountpoint)("set", values=values)
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        shown = number_text(value) if isinstance(value, int | float) else value
        click.echo(f"{name.replace('_', '-')}={shown}")


def asked(settings: Settings, mountpoint: Path) -> Callable[..., Any]:
    """Return a function that asks the mount at *mountpoint*: it takes a command, and more. Raises
    MountError."""
    from mimicfs.admin.controlsocket import ask
    from mimicfs.mount.mounted import control_socket

    (found,) = _chosen(settings, mountpoint)
    path = control_socket(settings, Path(found.mountpoint))
    return lambda command, **more: ask(path, command, **more)


def _watch(settings: Settings, mountpoint: Path | None, timeout_s: float, as_json: bool) -> None:
    """Show the status every other second: on a terminal in place, else one below the other."""
    try:
        if as_json:
            while True:
                click.echo(json.dumps(status_of_mounts(settings, mountpoint, timeout_s)))
                time.sleep(_WATCH_S)
        with in_place(screen=False) as show:
            before, before_s = list[StatusAnswer](), 0.0
            while True:
                told, now_s = status_of_mounts(settings, mountpoint, timeout_s), time.monotonic()
                text = _shown(told)
                if before:  # above: a terminal that is too small cuts text at its end
                    text = "\n".join([*rates(before, told, now_s - before_s), text])
                show(text)
                before, before_s = told, now_s
                time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        return


def _chosen(settings: Settings, mountpoint: Path | None) -> list[Mounted]:
    from mimicfs.fuse.mountpoint import resolved
    from mimicfs.mount.mounted import mounts

    found = mounts(settings)
    if mountpoint is None:
        return found
    found = [each for each in found if each.mountpoint == str(resolved(mountpoint))]
    if not found:
        raise errors.MountError(f"{mountpoint}: none of your mounts of mimicfs is there")
    return found


def status_of_mounts(
    settings: Settings, mountpoint: Path | None, timeout_s: float
) -> list[StatusAnswer]:
    """Return the status of each mount. All are asked at once."""
    from concurrent.futures import ThreadPoolExecutor

    found = _chosen(settings, mountpoint)
    with ThreadPoolExecutor(_MOUNTS_AT_ONCE) as pool:
        return list(pool.map(lambda each: _of_mount(settings, each, timeout_s), found))


def _of_mount(settings: Settings, mounted: Mounted, timeout_s: float) -> StatusAnswer:
    from mimicfs.admin.controlsocket import ask
    from mimicfs.mount.mounted import control_socket

    told: StatusAnswer = {**mounted._asdict(), "error": "", "buckets": []}
    del told["files"], told["bytes"]  # known at its end only
    if not mounted.alive:
        told["error"] = "its process has died"
        try:
            return {**told, "buckets": _buckets_in(settings, mounted)}
        except errors.MimicError as exc:  # the others are told all the same
            return {**told, "mirror": {"error": str(exc)}}
    try:
        said = ask(control_socket(settings, Path(mounted.mountpoint)), "status", timeout_s)
    except errors.MimicError as exc:
        return {**told, "error": str(exc)}
    return {**told, **said, "buckets": said.get("mirror", {}).get("buckets", [])}


def _buckets_in(settings: Settings, mounted: Mounted) -> list[StatusAnswer]:
    """Return the buckets in the mirror of a dead mount; none if that mirror is not a file."""
    from mimicfs.admin.figures import mirror
    from mimicfs.backends.open import open_store
    from mimicfs.mimicdb import Mirror

    if not mounted.store.startswith("sqlite:"):
        return []
    store = open_store(mounted.store, settings.namespace, create=False)
    with closing(Mirror(store)) as mimicdb:
        buckets: list[StatusAnswer] = mirror(mimicdb, mounted.store)["buckets"]
        return buckets


# For people


def _shown(told: list[StatusAnswer]) -> str:
    if not told:
        return "nothing is mounted"
    return "\n".join(printable(line) for each in told for line in _lines(each))


def _lines(each: StatusAnswer) -> Iterator[str]:
    """Yield what is known of a mount. A part that did not answer says so itself."""
    state = f"pid {each['pid']}" if each["alive"] else "DEAD; mount again, or run fusermount3 -u -z"
    yield f"{each['target']} at {each['mountpoint']} ({state})"
    if each["alive"] and each["error"]:
        yield f"  DOES NOT ANSWER: {each['error']}"
    mounted = ago(each["started_ns"], time.time_ns())
    yield f"  endpoint {each['endpoint']}, mounted {mounted} ({iso_time(each['started_ns'])})"
    if each.get("page"):
        yield f"  page     {each['page']}"
    parts = [("process", _process), ("kernel", _kernel), ("s3", _s3), ("costs", _costs),
             ("files", _files),
             ("cache", _cache), ("small_files", _small_files), ("sync", _syncs),
             ("events", _events), ("reconcile", _reconcile), ("sharing", _sharing),
             ("locks", _locks), ("follower", _nothing)]  # fmt: skip
    for name, lines in parts:
        part = each.get(name)
        if part is None:
            continue
        if failure(part):
            yield f"  {name}: {failure(part)}"
        else:
            yield from lines(part)
    yield f"  mirror   {each['store']}"
    why = failure(each.get("mirror", {}))
    if why:
        yield f"    {why}"
    yield from _buckets(each["buckets"])


def _to_look_at(name: str, part: StatusAnswer) -> Iterator[str]:
    for each in of_part(name, part):
        yield f"  LOOK AT  {each.what}"
        yield f"           {each.advice}"


def _nothing(part: StatusAnswer) -> Iterator[str]:
    yield from ()


def rates(before: list[StatusAnswer], now: list[StatusAnswer], seconds: float) -> Iterator[str]:
    """Yield what each mount in *now* did a second, since *before*, which was *seconds* ago."""
    earlier = {each["mountpoint"]: each for each in before}
    for each in now:
        old = earlier.get(each["mountpoint"])
        if old is None or each["pid"] != old["pid"] or not {"s3", "kernel"} <= {*each, *old}:
            continue
        if "requests" not in each["s3"] or "requests" not in old["s3"]:
            continue  # it did not answer
        yield printable(f"{each['mountpoint']}, a second:")
        for part, text in (("kernel", "programs"), ("s3", "S3      ")):
            yield f"  {text} {_a_second(old[part]['requests'], each[part]['requests'], seconds)}"
        moved = [
            f"{amount((each['s3'][way] - old['s3'][way]) / seconds)} {text}"
            for way, text in (("bytes_in", "in"), ("bytes_out", "out"))
        ]
        yield f"  bytes    {', '.join(moved)}"
        yield f"  latency  {_latencies(old['s3'], each['s3'])}"


def _a_second(old: Mapping[str, int], new: Mapping[str, int], seconds: float) -> str:
    found = {kind: (count - old.get(kind, 0)) / seconds for kind, count in new.items()}
    busy = [f"{rate:,.1f} {kind}" for kind, rate in sorted(found.items()) if rate > 0]
    return ", ".join(busy) or "nothing"


def _latencies(old: StatusAnswer, new: StatusAnswer) -> str:
    found = []
    for operation, calls in sorted(new["calls"].items()):
        count = calls - old["calls"].get(operation, 0)
        took_s = new["seconds"][operation] - old["seconds"].get(operation, 0.0)
        if count:
            found.append(f"{took_s / count * 1000:,.1f} ms {operation}")
    return ", ".join(found) or "nothing was asked"


def _process(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  process  up {duration(part['uptime_s'])}, {amount(part['resident_bytes'])} of memory,"
        f" {part['threads']} threads, version {part['version']}, log level {part['log_level']}"
    )


def _kernel(part: StatusAnswer) -> Iterator[str]:
    saved = part["saved"]
    yield (
        f"  asked    {part['answered_by_mirror']:,} answered by the mirror,"
        f" {part['asked_s3_first']:,} after a request to S3;"
        f" {saved['HEAD']:,} HEAD and {saved['LIST']:,} LIST saved"
    )
    yield f"  data     {amount(part['bytes_read'])} read, {amount(part['bytes_written'])} written"
    if part["errors"]:
        yield f"  errors   {_counted(part['errors'])}"
    workers = ", ".join(f"{name} {count}" for name, count in part["threads_max"].items())
    yield f"  workers  at most: {workers}"


def _s3(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  S3       {_counted(part['requests']) or 'nothing asked'};"
        f" {amount(part['bytes_in'])} in, {amount(part['bytes_out'])} out;"
        f" at most {part['connections_max']} requests at once"
    )
    if part["errors"] or part["slow"]:
        yield f"  S3 said  {_counted(part['errors']) or 'no error'}; {part['slow']:,} were slow"

    limits = part["limits"]
    said = []
    for way in ("down", "up"):
        text = limits[f"{way}load_limit"]
        if text != "off":
            said.append(f"{way} {bytes_a_second(text)}")
    if limits["request_rate"]:
        said.append(f"{number_text(limits['request_rate'])} requests a second to a bucket")
    if limits["max_requests_per_day"]:
        used, most = limits["requests_today"], limits["max_requests_per_day"]
        said.append(f"{used:,} of {most:,} requests of today are sent")
    if said:
        yield f"  limits   {'; '.join(said)}"
    yield from _to_look_at("s3", part)


def _costs(part: StatusAnswer) -> Iterator[str]:
    asked, saved = part["asked"], part["saved"]
    text = (
        f"{asked['put']:,} of the class of PUT, {asked['get']:,} of GET, {asked['free']:,} free;"
        f" saved: {saved['put']:,} of PUT, {saved['get']:,} of GET"
    )
    if "currency" in part:
        money = part["currency"]
        text += f"; {part['spent']:,.2f} {money} spent, {part['spared']:,.2f} saved"
    yield f"  costs    {text}"


def _files(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  files    {part['open']:,} open; {part['unsaved']:,} of them with"
        f" {amount(part['unsaved_bytes'])} that S3 does not have yet;"
        f" {amount(part['read_ahead_bytes'])} of {amount(part['read_ahead_max'])} read ahead"
    )
    queue = part["write_back"]
    if queue["files"]:
        yield (
            f"  waiting  {number_of(queue['files'], 'closed file')} with {amount(queue['bytes'])}"
            f" still to be uploaded, the oldest for {duration(queue['oldest_s'])}"
        )
    yield from _to_look_at("files", part)


def _cache(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  cache    {amount(part['used'])} of {amount(part['limit'])} in {part['directory']};"
        f" {amount(part['hit'])} read from it, {amount(part['missed'])} asked of S3"
    )


def _small_files(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  ahead    {number_of(part['fetched'], 'small file')} fetched, {amount(part['bytes'])};"
        f" directories listed: {part['directories']:,}, without room: {part['no_room']:,};"
        f" {part['refused']:,} refused"
    )


def _syncs(part: StatusAnswer) -> Iterator[str]:
    for each in part["running"]:
        scope = f"s3://{each['bucket']}/{each['prefix']}"
        so_far = f"{number_of(each['keys'], 'key')} in {number_of(each['pages'], 'page')} so far"
        yield f"  syncing  {scope}: {so_far}{_left(each)}"
    yield from _to_look_at("sync", part)


def _events(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  events   {part['state']} to {part['source']};"
        f" {number_of(part['messages'], 'message')}:"
        f" {part['echoes']:,} of what was known, {part['heads']:,} HEAD, {part['lists']:,} LIST;"
        f" the last was {duration(part['lag_s'])} old"
    )
    yield from _to_look_at("events", part)
    for name, until_ns in sorted(part["told_until_ns"].items())[:_BUCKETS_SHOWN]:
        yield f"    {name}: S3's messages were applied until {iso_time(until_ns)}"


def _reconcile(part: StatusAnswer) -> Iterator[str]:
    yield (
        f"  sweep    {number_of(part['swept'], 'part')} listed again;"
        f" at least {part['lists_a_day']:,.0f} LISTs a day"
    )
    yield from _to_look_at("reconcile", part)
    for name, until_ns in sorted(part["swept_until_ns"].items())[:_BUCKETS_SHOWN]:
        yield f"    {name}: everything was listed after {iso_time(until_ns)}"


def _sharing(part: StatusAnswer) -> Iterator[str]:
    if part["contended"] or part["resolved"]:
        yield (
            f"  sharing  {number_of(part['contended'], 'key')} changed by others at the same time,"
            f" {part['resolved']:,} settled by asking S3"
        )
    if part["untold"]:
        yield f"  sharing  {number_of(part['untold'], 'call')} the store still has to record"
    yield from _to_look_at("sharing", part)


def _locks(part: StatusAnswer) -> Iterator[str]:
    held = number_of(part["held"], "lock")
    yield f"  locks    {held} of files held for all mounts, {part['waiting']:,} waited for"
    yield from _to_look_at("locks", part)


def _left(progress: StatusAnswer) -> str:
    left_s = progress.get("left_s")
    return f", about {duration(left_s)} left" if left_s else ""


def _buckets(buckets: list[StatusAnswer]) -> Iterator[str]:
    now_ns = time.time_ns()
    for bucket in buckets[:_BUCKETS_SHOWN]:
        yield (
            f"    {bucket['name']}: {number_of(bucket['objects'], 'key')},"
            f" {amount(bucket['bytes'])}, {_synced(bucket, now_ns)}"
        )
    if len(buckets) > _BUCKETS_SHOWN:
        yield f"    and {len(buckets) - _BUCKETS_SHOWN} more; --json lists them"


def _synced(bucket: StatusAnswer, now_ns: int) -> str:
    if bucket["synced_ns"] is None:
        return "of what was visited"
    return f"listed {ago(bucket['synced_ns'], now_ns)}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
