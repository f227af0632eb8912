"""The FUSE protocol of the kernel. Knows nothing of S3; imports only posix, errors and signals.

abi         structures and constants of linux/fuse.h
mountpoint  the name of a mount point, without links
mounting    mounting and unmounting through fusermount3
session     one mount: INIT, requests in, answers and notifications out
counts      the requests of the kernel, counted
busy        the inodes that the kernel may keep locked
guardian    ends a mount whose process died
packing     attributes, names and listings as bytes for the kernel
unpacking   the names and values in a request
handed      /dev/fd/N as a mount point: a descriptor that another process has mounted
observing   each request with its answer, while somebody looks
operations  each request: its bytes to a call of posix.FileSystem, the result to bytes
learning    calls that are repeated after what they lack was learned
privileges  set-user-id and set-group-id bits that end with a change
groups      the groups of a caller
processes   what /proc says of a process
locking     locks of files: GETLK, SETLK, SETLKW
pool        worker threads
awaited     requests that are answered by the thread that ends what they wait for
server      which thread answers what; interrupts; the end
killed      releases processes that were killed while they wait
notify      posix.KernelCache: tells the kernel what has changed
"""
