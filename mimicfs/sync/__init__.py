"""Listing S3 fast, in parallel, and merging it into the mirror.

syncer     the calls for other rooms: who syncs, who shares, how far each sync is
whole      one sync of a prefix: resuming, the guard, the report
run        one listing by ranges: requests, merging, dividing
walk       the same of a directory bucket
plan       the ranges to begin with        ranges     where to divide one (pure)
flights    requests under way, and how many may be
held       delayed deletions               cursor     where an interrupted sync continues
progress   the progress and the report     source     what is listed, and through which client
heads      HEADs for what a listing does not say
sweep      the sweep: comparing the whole mirror with S3 once in a period
freshness  how fresh a directory is, and why
events/    the messages of S3
"""

from mimicfs.sync.held import Doomed, Guard, refuse
from mimicfs.sync.progress import Progress, Report
from mimicfs.sync.syncer import Syncer
from mimicfs.sync.whole import Wish

__all__ = ["Doomed", "Guard", "Progress", "Report", "Syncer", "Wish", "refuse"]
