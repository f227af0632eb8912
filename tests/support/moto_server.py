"""moto's server, mended in three places.

It looks through its own package for each request: here once. That was a third of its time.

It compares If-Match in one step and writes in another, and takes an object away before it puts the
new one there: of two conditional writes at once both succeeded, and a GET between them was a 500.
S3 knows nothing of either (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html),
so requests for objects and buckets come one after the other here.

It copies whatever is there, whichever version was asked for: S3 refuses another one
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html), and so it does here. (A proxy
that takes the header away, `Ignore` of proxy.py, makes it like Ceph again.)
"""

import sys
import threading
from urllib.parse import parse_qs, unquote, urlparse

import moto.backends
from moto.s3.exceptions import PreconditionFailed
from moto.s3.responses import S3Response
from moto.server import main

names = list(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: names

one_at_a_time = threading.RLock()


def serialised(answer):
    def within_the_lock(*args, **kwargs):
        with one_at_a_time:
            return answer(*args, **kwargs)

    return within_the_lock


# Their requests have been read whole by then, and what they return is written afterwards.
for name in ("_key_response", "_bucket_response"):
    setattr(S3Response, name, serialised(getattr(S3Response, name)))


def of_the_version(copy):
    def refusing_another(self):
        wanted = self.headers.get("x-amz-copy-source-if-match")
        if wanted is not None:
            source = urlparse(self.headers["x-amz-copy-source"])
            bucket, key = unquote(source.path).lstrip("/").split("/", 1)
            version = parse_qs(source.query).get("versionId", [None])[0]
            found = self.backend.get_object(bucket, key, version_id=version)
            if found is not None and found.etag.strip('"') != wanted.strip('"'):
                raise PreconditionFailed("x-amz-copy-source-If-Match")
        return copy(self)

    return refusing_another


for name in ("copy_object", "upload_part_copy"):
    setattr(S3Response, name, of_the_version(getattr(S3Response, name)))

sys.exit(main())
