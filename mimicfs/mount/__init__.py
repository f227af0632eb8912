"""The life of a mount, from its start to its end.

starting  looks whether the mount point is free, before the rest is imported
place     where a mount is to be
serving   builds the parts, serves the kernel, ends: readiness, signals, recovery
disk      the journal of what S3 does not have yet, and the cache of what was read
process   what the process of a mount is given: limits, modules, memory
daemon    a mount in a process of its own, which answers before the command returns
failed    the error of a mount that did not start, as the command prints it
mounted   the list of mounts: each has a record for its mount point
remount   what `mount -o remount` can change
outside   the files that a mount needs, which must not lie in it
replicas  where a mount keeps its copy of a shared store
telling   learns from S3 what others change, and sweeps
showing   the metrics and the web page of a mount
ending    tells whoever waits how far the end of a mount is
systemd   tells the service manager about readiness, progress and life
"""
