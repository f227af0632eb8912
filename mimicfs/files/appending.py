"""Appends whose base was replaced meanwhile: the same bytes behind what S3 has now.

A file that was opened with O_APPEND is written at its end, whatever that is when the bytes
arrive. So where all changes are appends, another version of the object is no conflict. Pure, but
for the staging files; `File` holds its lock.
"""

from __future__ import annotations

from collections.abc import Callable

from mimicfs.config.sizes import MIB
from mimicfs.entry import Entry
from mimicfs.files.journal import Journal
from mimicfs.files.layout import Layout
from mimicfs.files.staging import Staging

Fetch = Callable[[list[tuple[int, int]], Staging], None]


def moved_behind(
    entry: Entry,
    staging: Staging,
    tail: tuple[int, int],
    journal: Journal,
    fetch: Fetch,
    *,
    partial: bool,
) -> tuple[Staging, Layout]:
    """Return a new staging file, and its layout, in which the bytes *tail* (start, end) of
    *staging* stand behind those of *entry*. *fetch* gets bytes of that version; with *partial*
    none are fetched. The new file has no record yet, and *staging* stays as it is."""
    start, end = tail
    size = entry.size + end - start
    new = journal.stage()
    try:
        if partial:
            new.truncate(entry.size)
        else:
            fetch([(0, entry.size)], new)
        for place in range(start, end, MIB):
            data = staging.read(place, min(MIB, end - place))
            new.write(entry.size + place - start, data)
    except BaseException:
        new.remove()
        raise
    layout = Layout(entry.size, entry.size, partial=partial)
    layout.wrote(entry.size, size)
    return new, layout
