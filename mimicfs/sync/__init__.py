"""Listing S3 fast, in parallel, and merging it into the mirror.

| | |
|---|---|
| `syncer.py` | what others call: who syncs, who shares, how far each one is |
| `whole.py` | one sync of a prefix: resuming, the guard, the report |
| `run.py` | one listing by ranges: requests, merging, cutting |
| `walk.py` | the same of a directory bucket |
| `plan.py` `ranges.py` | the ranges to begin with; where to cut one (pure) |
| `flights.py` | requests under way, and how many may be |
| `held.py` `cursor.py` | deletions that are held back; where an interrupted sync goes on |
| `progress.py` `source.py` | values; what lists |
| `freshness.py` | how fresh a directory is, and by what |
"""

from mimicfs.sync.held import Doomed, Guard, refuse
from mimicfs.sync.progress import Progress, Report
from mimicfs.sync.syncer import Syncer
from mimicfs.sync.whole import Wish

__all__ = ["Doomed", "Guard", "Progress", "Report", "Syncer", "Wish", "refuse"]
