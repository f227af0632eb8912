"""Keys of KMS that objects have of their own go along with their copies."""

import types

from mimicfs.config.values import BucketOptions, Buckets
from mimicfs.entry import Entry
from mimicfs.s3.requests import encryption
from mimicfs.s3.requests.encryption import OwnKeys


class Server:
    """S3 with a bucket that has a *key*, and objects with a key of their own."""

    def __init__(self, key, own):
        self.key, self.own, self.asked = key, own, []
        self.kept = types.SimpleNamespace(remembered=lambda bucket, entry: None)

    def call(self, operation, bucket, key=None):
        self.asked.append(operation)
        if operation == "head_object":
            return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.own}
        rule = {"ApplyServerSideEncryptionByDefault": {"KMSMasterKeyID": self.key}}
        return {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}


def test_objects_keep_their_key_when_their_bucket_gets_another_one(monkeypatch):
    server, now_s = Server("old", "arn:key/old"), 0.0
    monkeypatch.setattr(encryption.time, "monotonic", lambda: now_s)
    keys = OwnKeys(server, Buckets(BucketOptions()))
    for _ in range(2):
        keys.seen("bucket", {"SSEKMSKeyId": "arn:key/old"})
        assert keys.of("bucket", Entry("a", 3)) == {}
    assert server.asked == ["get_bucket_encryption"]
    server.key, now_s = "new", 3600.0
    keys.seen("bucket", {"SSEKMSKeyId": "arn:key/old"})
    assert keys.of("bucket", Entry("a", 3)) == {
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "arn:key/old",
    }
