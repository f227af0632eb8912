"""S3. The documented API in boto's shape lies on top; three rooms lie below it.

connection  S3Connection                   bucket      Bucket (listed: its listings)
key         Key (reading, writing,         multipart   MultiPartUpload
            stored: parts of it)           prefix      Prefix
resultset   the results of listings        versions    the results of listings of versions
configured  the settings of a Bucket: ACL, tags, CORS, lifecycle, website, logging; documents has
            their XML, and acl, tagging, cors, lifecycle, website, bucketlogging have boto's classes
boto2       the base of these classes      progress    bodies on their way

requests/   the requests that mimicfs itself makes
mimicking/  a client that learns from the answers of S3, and asks for nothing that the mirror knows
transport/  HTTP to S3 and back

deletemarker, multidelete, bucketlistresultset and user are boto's names of things in other modules.
"""

from __future__ import annotations

from typing import Any


def connect_to_region(region_name: str, **kwargs: Any) -> Any:
    """Return an S3Connection to *region_name*, as boto.s3 does. *kwargs* are S3Connection's."""
    from mimicfs.s3.connection import S3Connection, host_of

    conn = S3Connection(region_name=region_name, **kwargs)
    if not kwargs.get("host"):
        conn.host = host_of(region_name)  # botocore knows better where to ask
    return conn
