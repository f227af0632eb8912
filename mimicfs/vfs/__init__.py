"""Buckets as a file system. Knows nothing of FUSE; `posix.FileSystem` is what it offers.

filesystem   the calls; a change goes to S3 first and to the mirror second
admission    whom an open lets in, and to which version
xattrs       extended attributes: whose a name is, and who answers
replacing    what a change of names does to what has the name
control      `.sync` and user.mimicfs.*: what they read as, what writing them does
versions     `.versions` of -o versions
objectattributes  what S3 keeps with an object, as user.mimicfs.*
moves        renames, of files and of directories
renames      the rename of a directory in S3, which may be undone or finished
tree         what is seen: looking up names, reading directories
kernel       what the kernel holds, and telling it what changed
stored       what is stored beside bytes: attributes, links, xattrs
handles      open files: reading, writing, and when bytes go to S3
opening      the table of handles, opening, turns
copying      copies of whole objects within S3
readdir      a reader's way through a directory
attributes   what stat(2) shows
neighbours   files that will be read next
writeback    uploads after close
inodes       inode numbers: which node stands for which key, which of them the kernel holds
rootattributes  mode, owner and times of what no object stands for: buckets, the root
intents      the records of renames that have not ended
names        keys as file names, and back
ownership    to whom a new file belongs
allowance    how much of something may be done in a time
"""
