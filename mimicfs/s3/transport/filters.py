"""The filters of a notification rule that only Ceph has: by metadata and by tags.

botocore would drop them from an answer. Then the rule would seem to tell of all keys, and a program
that puts the answer back would remove the filters.

Threading: no state; any thread.
"""

from __future__ import annotations

from typing import Any

_FILTER = "NotificationConfigurationFilter"  # what botocore calls it
_OF_CEPH = ("S3Metadata", "S3Tags")  # docs.ceph.com, radosgw/s3/bucketops, "Create Notification"


def know_filters_of_ceph(client: Any) -> None:
    """Have *client*, and other clients of the same botocore session, read and write them."""
    members = client.meta.service_model._service_description["shapes"][_FILTER]["members"]
    for name in _OF_CEPH:
        members.setdefault(name, {"shape": "S3KeyFilter", "locationName": name})
