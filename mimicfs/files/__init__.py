"""One open file, and the cache on disk.

file       one open file, which all of its handles share
content    what is stored with its object  changing   changes of an open file
appending  appends whose base was replaced meanwhile
standing   the version in S3 and the staging file that an open file consists of
states     the states of an open file, and every transition between them
view       what a handle knows of its file, and which changes through it are still meant
upload     the upload of a file            multipart  an upload in parts
transfer   requests that run at once       zeros      holes that become zeros in S3
origin     the version in S3 of a file     layout     which bytes of a file are where
reader     reads of one version            streams    where readers continue
asking     the GETs of a reader            chunks     what a reader has asked for
budget     memory for reading ahead        ranges     sets of byte ranges
staging    a staging file                  journal    the staging files of a mount
small      one without a file of its own   segment    the file that has many of those
replaying  what a dead mount left there    room       how much all of them may take
record     what a staging file is to become, on disk
changes    the changed ranges of a staging file, on disk
sums       checksums of a staging file     disk       errors of the local disk
recovery   uploads for a mount that died   warming    filling the cache in advance
cache      the cache on disk               blocks     one file of the cache
shelves    files of it that small objects share
eviction   the space of the cache          direct     large reads and writes by O_DIRECT
bringing   parts of it brought from the disk before they are read
turn       a lock whose wait can be interrupted
halves     that of a file: appends that come in two halves stay together
tools      what the open files of a mount share
behind     uploads that give way to changes
"""
