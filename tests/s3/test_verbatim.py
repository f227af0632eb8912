"""Headers that are stored again as they were written."""

from __future__ import annotations

from mimicfs.s3.transport.verbatim import keep_expires


def test_expires_is_sent_each_time_that_the_same_call_is_asked(client, bucket):
    """A bucket that must be named in the host is asked twice."""
    keep_expires(client.meta.events)
    sent = []
    client.meta.events.register(
        "before-call.s3.PutObject", lambda params, **_: sent.append(params["headers"]["Expires"])
    )
    params = {"Bucket": bucket, "Key": "a", "Expires": "0"}
    for _ in range(2):
        client._make_api_call("PutObject", params)
    assert sent == ["0", "0"]
