"""What /proc says of a process that asks."""

from __future__ import annotations

from pathlib import Path


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/PID/status; none if they cannot be seen.

    The name of a program has any bytes but "\\n", and is cut after 15 of them, within a character
    as well: it must not end this, nor look like other fields.
    """
    try:
        said = Path(f"/proc/{pid}/status").read_bytes()
    except OSError:
        return {}
    fields = (line.decode(errors="replace").partition(":") for line in said.split(b"\n"))
    return {name: value.strip() for name, _, value in fields}
