"""File locks that all mounts of a store share (-o locks=shared): `rows.py` says what a lock is and
what stands against it, `shared.py` keeps them in the store, `lockedfile.py` those of one file;
`settling.py` makes the rows of the store say what a mount holds, `lease.py` says when that is
certain, `sweeping.py` finds the locks of dead mounts, and `listener.py` wakes callers that wait for
a lock."""
