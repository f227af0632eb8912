"""Our signatures are botocore's."""

from __future__ import annotations

import calendar
import io
import random
import string
import time
from typing import Any
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from mimicfs.s3.transport.signing import Signer

PLAIN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~ /:;=@"


def word(source: random.Random, letters: str) -> str:
    return "x".join("".join(source.choices(letters, k=source.randrange(1, 20))).split()) or "x"


def theirs(url: str, headers: dict[str, str], body: Any, method: str, token: str | None) -> Any:
    request = AWSRequest(method, url, headers, body)
    request.context["client_config"] = Config()
    credentials = ReadOnlyCredentials("AKID", "secret", token)
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    return dict(request.headers.items())


@pytest.mark.parametrize("seed", range(30))
def test_a_request_is_signed_as_botocore_signs_it(seed: int) -> None:
    source = random.Random(seed)
    secure = source.random() < 0.5
    host = source.choice(["s3.amazonaws.com", "localhost:9000", "b.s3.eu-west-1.amazonaws.com"])
    key = "".join(source.choices(PLAIN + "äöü😀//..", k=source.randrange(1, 40)))
    path = "/bucket/" + quote(key, safe="/-._~")
    query = "&".join(sorted(f"{name}={quote(word(source, PLAIN), safe='-._~')}"
                            for name in source.sample(["partNumber", "uploadId", "a"], seed % 4)
                            ))  # fmt: skip
    headers = {"User-Agent": "mimicfs", "Content-Length": "5"}
    headers |= {f"x-amz-meta-{word(source, string.ascii_letters)}": word(source, PLAIN)}
    headers |= {"Content-Type": "text/plain", "If-Match": '"etag"'}
    body: Any = source.choice([b"", b"hello", io.BytesIO(b"hello, hello"), io.BytesIO()])
    if isinstance(body, io.BytesIO):
        body.seek(source.randrange(len(body.getvalue()) + 1))
    place = 0 if isinstance(body, bytes) else body.tell()
    token = source.choice([None, "a/token+of=this"])
    method = source.choice(["GET", "PUT"])
    url = f"{'https' if secure else 'http'}://{host}{path}" + (f"?{query}" if query else "")
    expected = theirs(url, headers, body, method, token)
    at = calendar.timegm(time.strptime(expected["X-Amz-Date"], "%Y%m%dT%H%M%SZ"))
    credentials = ReadOnlyCredentials("AKID", "secret", token)
    asked = (method, host, path, query, headers, body)
    signer = Signer()
    for _ in range(2):  # the second time with the key of the day at hand
        assert signer.signed(credentials, "eu-west-1", *asked, now_s=at) == expected
    assert isinstance(body, bytes) or body.tell() == place


def test_another_day_region_or_secret_has_another_key() -> None:
    signer = Signer()
    made = {
        signer.signed(
            ReadOnlyCredentials("AKID", secret, None),
            region,
            "GET",
            "host",
            "/",
            "",
            {},
            b"",
            now_s=at,
        )["Authorization"].rpartition("=")[2]
        for secret in ("a", "b")
        for region in ("r", "s")
        for at in (0, 86_400)
    }
    assert len(made) == 8


def test_bodies_are_left_out_where_the_configuration_says_so() -> None:
    credentials = ReadOnlyCredentials("AKID", "secret", None)
    signed = Signer(whole=False).signed(credentials, "r", "PUT", "host", "/", "", {}, b"body")
    assert signed["X-Amz-Content-SHA256"] == "UNSIGNED-PAYLOAD"
