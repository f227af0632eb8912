"""`scripts/bench events`: a mount that S3 tells of the changes of others, with real servers.

__main__  the program: which servers, which tables
tellers   the S3 servers that tell, and how each is asked to
passing   stands between S3 and the mount: when each message came, or some doubled, late and lost
mounts    the mount, and what it says of itself
changes   what a client changes, and how it is seen
delays    how long a change takes to be shown
losses    what a tenth of lost messages leaves
takeover  a mount that takes the messages is killed
"""
