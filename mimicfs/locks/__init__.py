"""File locks that all mounts of a store share (-o locks=shared): `rows.py` says what a lock is and
what stands against it, `shared.py` keeps them in the store, `lockedfile.py` those of one file;
`lease.py` says when they are certain, `sweeping.py` what the dead have left; `listener.py` wakes
those who wait for one."""
