"""The index as a thing of its own: the mirror of a bucket as a file, and back.

    records.py    what an index file says: its header, its parts, their entries
    jsonlines.py  the same as lines of JSON
    parquet.py    the same as a Parquet file; Parquet and ORC files of S3 Inventory (pyarrow)
    files.py      files by their names, whole or not there
    exporting.py  from the mirror to a file, as of one moment
    importing.py  from a file into the mirror: a merge, as of the file's time
    inventory.py  a report of S3 Inventory as such a file
    sorting.py    more entries than memory holds, put in order
    find.py       find and du: what is known below a directory
    verify.py     what differs from S3, and repairing it

docs/indexes.md describes the formats for programs that read and write them elsewhere.
"""
