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

    def holds(self, figure: float) -> bool:
        return figure >= self.figure if self.at_least else figure <= self.figure


LS, FIND = "ls -l of 100,000 files", "find over 100,000 files in 11,111 directories"
# What the project has set itself, at 20 ms a request and full size.
TARGETS = {
    (LS, "known, fresh mount"): Goal(1.0, requests=4),  # the first look: 4 HEADs a directory,
    (LS, "again"): Goal(0.45, requests=0),
    (f"sync, {LS}", "first"): Goal(1.0),
    (FIND, "known, fresh mount"): Goal(3.5, requests=256),  # of the first 64 directories
    (FIND, "again"): Goal(0.35, requests=0),
    (FIND, "later"): Goal(0.35, requests=0),
    ("stat of a known name", "asked of the daemon"): Goal(100, "us", requests=0),
    ("stat of a known name", "kernel-cached"): Goal(0, "us", requests=0, times_ext4=1.1),
    ("read 1,024 MiB", "cold"): Goal(2.0),
    ("read 1,024 MiB", "again"): Goal(0.2),
    ("read 1,024 MiB", "kept on disk, after a remount"): Goal(0.7),
    ("8 readers of 128 MiB each", "cold"): Goal(4.0),
    ("random reads of 4 KiB", "cold"): Goal(16, "x what was asked"),
    ("random reads of 4 KiB", "again"): Goal(10_000, "a second", at_least=True),
    ("cp -r of 400 files in 20 directories", "cold"): Goal(1.5),
    ("append 1 MiB to 1,024 MiB", "to the return"): Goal(20, "MiB moved"),
    ("write 1,024 MiB and fsync", "to the return"): Goal(5.0),
    ("create 2,000 files of 4 KiB", "8 threads"): Goal(350, "files/s", at_least=True),
    ("read 2,000 files of 4 KiB", "cold, 1 thread"): Goal(300, "files/s", at_least=True),
}
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
LEGEND = """\
A cell: median (range) of the repetitions, [S3 requests], CPU seconds and peak resident MiB of
the daemon (of the command, for a `sync` that runs unmounted). us: median of one `lstat`. `>`:
stopped at its time limit. **never seen**: the first `ls` of a fresh mount that stored nothing.
**known, fresh mount**: mimicfs after `mimicfs sync` and a new mount, so also after any remount;
rclone after `vfs/refresh recursive=true`; s3fs remounted with its caches kept; ext4 after
`drop_caches`. **asked of the daemon**: the kernel's names and attributes dropped."""


def table(measurements: list[Measurement], peers: list[str]) -> str:
    """Return the table: a row for each step, a column for each file system."""
    rows: dict[tuple[str, str], dict[str, list[Measurement]]] = {}
    for made in sorted(measurements, key=lambda made: made.peer == "ext4"):  # has the fewest rows
        rows.setdefault((made.workload, made.step), {}).setdefault(made.peer, []).append(made)
    lines = [f"| | target | {' | '.join(peers)} |", "|---" * (len(peers) + 2) + "|"]
    for (workload, step), cells in rows.items():
        shown = " | ".join(cell(cells[peer]) if peer in cells else "-" for peer in peers)
        lines.append(f"| {workload}: {step} | {target(workload, step, cells)} | {shown} |")
    return "\n".join(lines)


def target(workload: str, step: str, cells: dict[str, list[Measurement]]) -> str:
    """Return what the project wants of mimicfs here, and whether it holds."""
    goal = TARGETS.get((workload, step))
    if goal is None or "mimicfs" not in cells:
        return ""
    figures = [made.value if made.unit != "s" else made.wall_s for made in cells["mimicfs"]]
    if goal.times_ext4:
        local = median(made.value or 0.0 for made in cells.get("ext4", []) or cells["mimicfs"])
        goal = Goal(goal.times_ext4 * local, goal.unit, at_least=False, requests=goal.requests)
    reached = None not in figures and goal.holds(median(f for f in figures if f is not None))
    sign = ">=" if goal.at_least else "<="
    wanted = f"{sign} {number(goal.figure)} {goal.unit}"
    if goal.requests is not None:
        asked = max(sum(made.requests.values()) for made in cells["mimicfs"])
        reached = reached and asked <= goal.requests
        wanted += f", [{goal.requests}]"
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
        parts.append(f"cpu {median(used):.2f}, {max(peaks):.0f} MiB")
    parts += sorted({note for made in repeated for note in made.notes})
    return " ".join(parts)


def _figure(repeated: list[Measurement]) -> str:
    unit = repeated[0].unit
    values = sorted(
        v for made in repeated if (v := made.wall_s if unit == "s" else made.value) is not None
    )
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
