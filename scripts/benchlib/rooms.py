"""The import graph of the rooms, as text: which room imports which, and from how many modules.

An import for the type checker alone (`if TYPE_CHECKING`) counts too.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DESIGN = ROOT / "docs" / "design.md"
_BLOCK = re.compile(r"(?<=<!-- rooms: begin -->\n```\n).*?(?=```\n<!-- rooms: end -->)", re.DOTALL)
# Read by their form, since a parser takes seconds; code is formatted, so there is one form.
_IMPORT = re.compile(
    r"^ *(?:from|import) mimicfs(?:\.(\w+)[.\w]*(?: import|$)| import (\([^)]*\)|.*)$)",
    re.MULTILINE,
)
_PUBLIC = {"MimicDB", "mimic", "__version__"}  # of the package itself
_WIDTH = 96


def drawing() -> str:
    """Return the graph of today: a line for each room."""
    graph = _graph()
    order = sorted(graph, key=lambda room: (-len(_below(graph, room)), room))
    return "".join(_line(room, sorted(graph[room])) for room in order)


def drawn() -> str:
    """Return the graph that docs/design.md has."""
    found = _BLOCK.search(DESIGN.read_text())
    return found[0] if found else ""


def write() -> None:
    """Put the graph of today into docs/design.md."""
    DESIGN.write_text(_BLOCK.sub(lambda _: drawing(), DESIGN.read_text()))


def _line(room: str, imported: list[str]) -> str:
    lines = [f"{room:<11}"]
    for one in imported:
        if len(lines[-1]) + 1 + len(one) > _WIDTH:
            lines.append(" " * 11)
        lines[-1] += f" {one}"
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _below(graph: dict[str, set[str]], room: str) -> set[str]:
    """Return all that *room* needs, by way of others too."""
    seen: set[str] = set()
    ahead = [room]
    while ahead:
        new = graph[ahead.pop()] - seen
        seen |= new
        ahead += new
    return seen


def _graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = defaultdict(set)
    for file in sorted((ROOT / "mimicfs").rglob("*.py")):
        room = _room(file.relative_to(ROOT / "mimicfs").parts[0].removesuffix(".py"))
        if room:
            graph[room] |= {_room(name) for name in _imported(file)} - {room, ""}
    return dict(graph)


def _room(name: str) -> str:
    return "" if name in ("__init__", "__main__") else name


def _imported(file: Path) -> set[str]:
    """Return the rooms that *file* imports, by the second part of their names."""
    found: set[str] = set()
    for room, names in _IMPORT.findall(file.read_text()):
        found |= {room} if room else set(re.findall(r"\w+", names))
    return found - _PUBLIC
