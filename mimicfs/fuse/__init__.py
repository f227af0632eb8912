"""The kernel's FUSE protocol. Knows nothing of S3: of ours it imports posix and errors only.

abi         structures and constants of linux/fuse.h
mounting    mounting and unmounting through fusermount3
session     one mount: INIT, requests in, answers and notifications out
counts      what a mount was asked, and how often
busy        whether a mount is in use
guardian    ends a mount whose process died
packing     attributes, names and listings as the bytes that the kernel wants
unpacking   what a request says, as names and values
operations  each request: its bytes to a call of posix.FileSystem, the result to bytes
pool        worker threads
server      which thread answers what; interrupts; the end
killed      lets go of processes that were killed while they wait
notify      posix.KernelCache: tells the kernel what is no longer so
"""
