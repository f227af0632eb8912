"""Measurements as a Markdown table, and the table's place in `docs/performance.md`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchlib.workloads import Measurement


class Goal(NamedTuple):
    """A figure that a step of mimicfs has to reach, and with how many requests at most."""

    figure: float
    unit: str = "s"
    at_least: bool = False
    requests: int | None = None
    times_ext4: float = 0.0  # the figure is so many times that of ext4
    cpu_us: float | None = None  # of the daemon, for each file, name or MiB, at most
    durable_s: float | None = None  # until S3 has what was written

    def holds(self, figure: float) -> bool:
        return figure >= self.figure if self.at_least else figure <= self.figure


LS, FIND = "ls -l of 100,000 files", "find over 100,000 files in 11,111 directories"
STAT, RANDOM = "stat of a known name", "random reads of 4 KiB"
CREATE, READ = "create 2,000 files of 4 KiB", "read 2,000 files of 4 KiB"
LATER = f"{CREATE}, S3 has them later"
# The targets of the project, at 20 ms a request and full size.
TARGETS = {
    (LS, "known, fresh mount"): Goal(0.8, times_ext4=0.8, requests=4),  # 4 HEADs a directory,
    (LS, "again"): Goal(0.6, times_ext4=0.6, requests=0),
    (f"sync, {LS}", "first"): Goal(1.0),
    (FIND, "known, fresh mount"): Goal(2.2, times_ext4=2.2, requests=256),  # of the first 64
    (FIND, "again"): Goal(0.7, requests=0),
    (FIND, "later"): Goal(1.0, times_ext4=1.1, requests=0),
    (STAT, "asked of the daemon"): Goal(60, "us", requests=0),
    (STAT, "kernel-cached"): Goal(0, "us", requests=0, times_ext4=1.1),
    ("stat of a missing name", "first"): Goal(40, "us", requests=0),
    ("read 1,024 MiB", "cold"): Goal(1.8),
    ("read 1,024 MiB", "again"): Goal(0.2),
    ("read 1,024 MiB", "kept on disk, after a remount"): Goal(0.7),
    ("8 readers of 128 MiB each", "cold"): Goal(2.0),
    (RANDOM, "cold"): Goal(16, "x what was asked"),
    (RANDOM, "cold, 1,024"): Goal(150, "a second", at_least=True),
    (RANDOM, "kept on disk"): Goal(20_000, "a second", at_least=True),
    (RANDOM, "again"): Goal(10_000, "a second", at_least=True),
    ("cp -r of 400 files in 20 directories", "cold"): Goal(1.5),
    ("append 1 MiB to 1,024 MiB", "to the return"): Goal(20, "MiB moved"),
    ("write 1,024 MiB and fsync", "to the return"): Goal(4.0),
    (CREATE, "8 threads"): Goal(380, "files/s", at_least=True, cpu_us=1200),
    (LATER, "1 thread"): Goal(1500, "files/s", at_least=True, durable_s=2.5),
    (LATER, "8 threads"): Goal(1500, "files/s", at_least=True, durable_s=2.5),
    (READ, "cold, 1 thread"): Goal(1000, "files/s", at_least=True, cpu_us=700),
    (READ, "cold, 8 threads"): Goal(1500, "files/s", at_least=True, cpu_us=700),
    (READ, "again"): Goal(9000, "files/s", at_least=True),
    ("mount", "until it answers"): Goal(0.35),
    ("memory of a name", "held"): Goal(220, "bytes"),
    ("memory of a name", "after they are forgotten"): Goal(22, "bytes"),
}
_MORE_IS_BETTER = ("files/s", "a second")
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
LEGEND = """\
A cell: median (range) of the repetitions, [S3 requests], CPU seconds (and microseconds for each
file, name, read or MiB) and peak resident MiB of the daemon (of the command, for a `sync` that
runs unmounted). us: median of one `lstat`. `>`:
stopped at its time limit. **never seen**: the first `ls` of a fresh mount that stored nothing.
**known, fresh mount**: mimicfs after `mimicfs sync` and a new mount, so also after any remount;
rclone after `vfs/refresh recursive=true`; s3fs remounted with its caches kept; ext4 after
`drop_caches`. **asked of the daemon**: the kernel's names and attributes dropped."""


Rows = dict[tuple[str, str], dict[str, list[Measurement]]]  # by step, and by file system


def rows_of(measurements: list[Measurement]) -> Rows:
    """Return the rows of the table, with the measurements of each cell."""
    rows: Rows = {}
    for made in sorted(measurements, key=lambda made: made.peer == "ext4"):  # has the fewest rows
        rows.setdefault((made.workload, made.step), {}).setdefault(made.peer, []).append(made)
    return rows


def table(measurements: list[Measurement], peers: list[str]) -> str:
    """Return the table: a row for each step, a column for each file system."""
    lines = [f"| | target | {' | '.join(peers)} |", "|---" * (len(peers) + 2) + "|"]
    for (workload, step), cells in rows_of(measurements).items():
        shown = " | ".join(cell(cells[peer]) if peer in cells else "-" for peer in peers)
        lines.append(f"| {workload}: {step} | {target(workload, step, cells)} | {shown} |")
    return "\n".join(lines)


def comparison(measurements: list[Measurement]) -> str:
    """Return the table of ratios to the best peer that asks S3, the rows where mimicfs is behind
    on top: 1 is as good, 0.5 is half as quick (or twice the bytes)."""
    lines = ["| | of the best peer | best peer | of ext4 |", "|---" * 4 + "|"]
    found = [
        (ratio, f"{workload}: {step}", peer, cells)
        for (workload, step), cells in rows_of(measurements).items()
        if "mimicfs" in cells
        for ratio, peer in [_best_peer(cells)]
        if peer
    ]
    for ratio, row, peer, cells in sorted(found, key=lambda each: each[0]):
        mark = "**" if ratio < 0.95 else ""
        local = f"{ratio_to(cells, 'ext4'):.2f}" if ratio_to(cells, "ext4") else "-"
        lines.append(f"| {row} | {mark}{ratio:.2f}{mark} | {peer} | {local} |")
    return "\n".join(lines)


def _best_peer(cells: dict[str, list[Measurement]]) -> tuple[float, str]:
    """Return the ratio to the best of the others, and who that is; "" if there is none."""
    others = [peer for peer in cells if peer not in ("mimicfs", "mimicfs-redis", "ext4")]
    ratios = [(ratio, peer) for peer in others if (ratio := ratio_to(cells, peer))]
    return min(ratios, default=(0.0, ""))


def ratio_to(cells: dict[str, list[Measurement]], peer: str) -> float:
    """Return how many times as good as *peer* mimicfs is; 0 where that cannot be told."""
    if peer not in cells:
        return 0.0
    own, its = (figures(cells[name]) for name in ("mimicfs", peer))
    if not own or not its or min(median(own), median(its)) <= 0:
        return 0.0
    ratio = median(own) / median(its)
    return ratio if cells["mimicfs"][0].unit in _MORE_IS_BETTER else 1 / ratio


def figures(repeated: list[Measurement]) -> list[float]:
    """Return what was measured, of the repetitions that did not run over their time."""
    found = [made.wall_s if made.unit == "s" else made.value for made in repeated]
    return [figure for figure in found if figure is not None]


def missed(measurements: list[Measurement]) -> list[str]:
    """Return a line for each row of mimicfs that falls short of its target."""
    return [
        f"{workload}: {step}: {cell(cells['mimicfs'])}; {wanted}"
        for (workload, step), cells in rows_of(measurements).items()
        if "missed" in (wanted := target(workload, step, cells))
    ]


def target(workload: str, step: str, cells: dict[str, list[Measurement]]) -> str:
    """Return what the project wants of mimicfs here, and whether it holds."""
    goal = TARGETS.get((workload, step))
    if goal is None or "mimicfs" not in cells:
        return ""
    own = cells["mimicfs"]
    local = figures(cells.get("ext4", []))
    if goal.times_ext4 and local:
        goal = goal._replace(figure=goal.times_ext4 * median(local))
    elif goal.times_ext4:
        return f"{goal.times_ext4} x ext4"
    found = figures(own)
    reached = bool(found) and goal.holds(median(found))
    sign = ">=" if goal.at_least else "<="
    wanted = f"{sign} {number(goal.figure)} {goal.unit}"
    if goal.requests is not None:
        reached = reached and max(sum(made.requests.values()) for made in own) <= goal.requests
        wanted += f", [{goal.requests}]"
    if goal.cpu_us is not None:
        used = [made.cpu_us for made in own if made.cpu_us is not None]
        reached = reached and bool(used) and median(used) <= goal.cpu_us
        wanted += f", cpu <= {goal.cpu_us:,.0f} us a {own[0].each}"
    if goal.durable_s is not None:
        late = [made.durable_s for made in own if made.durable_s is not None]
        reached = reached and bool(late) and median(late) <= goal.durable_s
        wanted += f", in S3 within {goal.durable_s} s"
    return f"{wanted}: {'met' if reached else '**missed**'}"


def cell(repeated: list[Measurement]) -> str:
    """Return what one peer needed for one step."""
    over = [made for made in repeated if made.wall_s is None]
    parts = [_figure(repeated)]
    if over:
        parts = [f"> {over[0].limit_s:.0f} s" if over[0].limit_s else "failed"]
    if any(made.requests for made in repeated) or repeated[0].cpu_s is not None:
        parts.append(_requests(repeated))
    used = [made.cpu_s for made in repeated if made.cpu_s is not None]
    peaks = [made.peak_mib for made in repeated if made.peak_mib is not None]
    if used and peaks:
        single = [made.cpu_us for made in repeated if made.cpu_us is not None]
        per = f" ({median(single):,.0f} us a {repeated[0].each})" if single else ""
        parts.append(f"cpu {median(used):.2f}{per}, {max(peaks):.0f} MiB")
    durable = [made.durable_s for made in repeated if made.durable_s is not None]
    if durable:
        parts.append(f"all in S3 after {median(durable):.1f} s")
    parts += sorted({note for made in repeated for note in made.notes})
    return " ".join(parts)


def _figure(repeated: list[Measurement]) -> str:
    unit = repeated[0].unit
    values = sorted(figures(repeated))
    if not values:
        return "failed"
    spread = f" ({number(values[0])}..{number(values[-1])})" if len(values) > 1 else ""
    return f"**{number(median(values))}**{spread} {unit}"


def number(value: float) -> str:
    """Return a figure with about three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _requests(repeated: list[Measurement]) -> str:
    """Return the requests of the last repetition, with a mark when the others differ."""
    last = Counter(repeated[-1].requests)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in last.most_common()) or "0"
    same = all(Counter(made.requests) == last for made in repeated)
    return f"[{shown}]" if same else f"[~{shown}]"


def one_line(made: Measurement) -> str:
    """Return a measurement for the terminal, as it comes in."""
    return f"{made.repetition + 1} {made.peer:8} {made.workload}: {made.step}: {cell([made])}"


def document(text: str, head: str, body: str) -> str:
    """Return *text* with the part between the markers replaced (or added at its end)."""
    section = f"{BEGIN}\n{head}\n\n{LEGEND}\n\n{body}\n{END}"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{section}\n"
    pattern = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return pattern.sub(lambda _: section, text)


def write(path: Path, head: str, body: str) -> None:
    """Put the table into the document at *path*."""
    path.write_text(document(path.read_text() if path.exists() else "# Performance\n", head, body))
