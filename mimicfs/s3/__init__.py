"""S3. On top lies the documented API in boto's shape; below it lie three rooms.

connection  S3Connection                   bucket      Bucket (listed: its listings)
key         Key (reading, writing,         multipart   MultiPartUpload
            stored: parts of it)           prefix      Prefix
resultset   what listings return           versions    what listings of versions return
configured  what is set for a Bucket: ACL, tags, CORS, lifecycle, website, logging; documents is
            their XML, and acl, tagging, cors, lifecycle, website, bucketlogging have boto's classes
boto2       what these classes share       progress    bodies on their way

requests/   what mimicfs itself asks of S3
mimicking/  what S3 says is learned, and what the mirror knows is not asked
transport/  HTTP to S3 and back

deletemarker, multidelete, bucketlistresultset and user are boto's names of what lies elsewhere.
"""

from __future__ import annotations

from typing import Any


def connect_to_region(region_name: str, **kwargs: Any) -> Any:
    """Return an S3Connection to *region_name*, as boto.s3's; *kwargs* are S3Connection's."""
    from mimicfs.s3.connection import S3Connection, host_of

    conn = S3Connection(region_name=region_name, **kwargs)
    if not kwargs.get("host"):
        conn.host = host_of(region_name)  # botocore knows better where to ask
    return conn
