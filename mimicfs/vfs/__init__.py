"""Buckets as a file system. Knows nothing of FUSE; `posix.FileSystem` is what it offers.

filesystem   the calls; a change goes to S3 first and to the mirror second
admission    whom an open lets in, and to which version
creating     regular files
making       directories, links and other files that are not regular
markers      the objects that mark directories, where the server keeps them
xattrs       extended attributes: who answers for which name
leaving      rmdir, unlink, rename
replacing    the object that a new name replaces
control      `.sync` and user.mimicfs.*: reading and writing them
versions     `.versions` of -o versions
objectattributes  the headers, tags and ACL of an object, as user.mimicfs.*
moves        renames, of files and of directories
renames      the rename of a directory in S3, which may be undone or finished
departures   directories that are renamed in a moment, and what waits for that
claims       which directories are being renamed, by all mounts of the store
tree         looking up names, reading directories
justabsent   the last name that was not there
firstlook    whether modes, owners and links are stored with the objects of a directory
sampling     the names of a directory that are asked about first
kernel       the kernel's view, and telling it what changed
stored       attributes, links and xattrs that are stored with objects
handles      open files: reading and writing
closing      when the bytes of open files go to S3
renewing     open files that go on with what others have put in their place
opening      opening, turns
table        the table of handles, and their Files
copying      copies of whole objects within S3
readdir      a reader's way through a directory
walking      the directory that a walk through a tree reads next
attributes   the answer to stat(2)
neighbours   files that will be read next
smallfiles   small files of directories that are listed
writeback    uploads after close
securing     files that are closed before S3 has them: safe on the local disk
coming       what a reader will ask next, prepared while nobody asks
inodes       inode numbers: which node stands for which key, which of them the kernel holds
rootattributes  mode, owner and times of buckets and the root, which no object stands for
intents      the records of renames that have not ended
nodes        a bucket, directory or object that somebody holds
names        keys as file names, and back
vacated      what a new file inherits from one that was just renamed away
locking      locks of open files that are kept in the store
ownership    the owner of a new file
allowance    a limit on requests per second, with a reserve
"""
