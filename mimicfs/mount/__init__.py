"""The life of a mount.

serving   builds the parts, serves the kernel, ends: readiness, signals, recovery
daemon    a mount in a process of its own, which answers before the command returns
mounted   what is mounted: a record for each mount point
remount   what `mount -o remount` can change
ending    how far the end of a mount is, told to whoever waits for it
systemd   readiness, progress and the watchdog, told to the service manager
"""
