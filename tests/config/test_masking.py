"""Secrets in texts that others wrote: taken out, and nothing else."""

from __future__ import annotations

import time

import pytest

from mimicfs.config.masking import masked

SECRET = "Zq7wJalrXUtnFEMI+K7MDENG/bPx"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"<Token-0>{SECRET}</Token-0>", "<Token-0>***</Token-0>"),
        (f"b'<SecretAccessKey>{SECRET}</SecretAccessKey>'",
         "b'<SecretAccessKey>***</SecretAccessKey>'"),
        (f"<SessionToken>\n  {SECRET}\n</SessionToken>", "<SessionToken>***</SessionToken>"),
        (f'{{"Authorization": "Bearer {SECRET}", "a": "b"}}', '{"Authorization": "***", "a": "b"}'),
        (f"{{'authorization': b'AWS AKID:{SECRET}'}}", "{'authorization': b'***'}"),
        (f'authorization=Digest a="b", response="{SECRET}"', "authorization=***"),
        (f"Set-Cookie: a=b; c={SECRET}", "Set-Cookie: ***"),
        (f"Bearer {SECRET}: refused", "Bearer ***: refused"),
        (f"X-Amz-Signature%3D{SECRET}", "X-Amz-Signature%3D***"),
        (f"X-Amz-Security-Token%253D{SECRET}", "X-Amz-Security-Token%253D***"),
        (f'password = "two words {SECRET}" at h', 'password = "***" at h'),
        (f"password = '{SECRET} without an end", "password = '*** without an end"),
        (rf'"{{\"SecretAccessKey\": \"{SECRET}\"}}"', r'"{\"SecretAccessKey\": \"***\"}"'),
        (f"[('x-amz-security-token', '{SECRET}')]", "[('x-amz-security-token', '***')]"),
        (f"password: b'{SECRET}'", "password: b'***'"),
        (f"aws_secret_access_key =\n    {SECRET}\n", "aws_secret_access_key =\n    ***\n"),
        (f"passphrase={SECRET} pwd={SECRET} api-key: {SECRET}",
         "passphrase=*** pwd=*** api-key: ***"),
        (f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
         "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"),
        (f"token={SECRET}: no such token as {SECRET}", "token=*** no such token as ***"),
        (f"redis://me:{SECRET}@h/0: {SECRET} is wrong", "redis://***@h/0: *** is wrong"),
    ],
)  # fmt: skip
def test_a_secret_is_not_shown_however_it_is_written(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "ExpiredToken: The provided token has expired.",
        "InvalidToken: The provided token is malformed.",
        "SignatureDoesNotMatch: The request signature we calculated does not match",
        "InvalidAccessKeyId: The Access Key Id you provided does not exist in our records.",
        "<NextContinuationToken>1abc</NextContinuationToken>",
        "list-type=2&continuation-token=1abc",
        "passwd_file=/etc/passwd-s3fs; web_identity_token_file=/var/run/token",
        "Token has expired and refresh failed",
        "s3://photos/a@b.txt: no such key",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert masked(text) == text


HOSTILE = ["token", "token='", "http://", "<a", "'password','\\\\", "a://", "a://b@c ", "token=\\"]


@pytest.mark.parametrize("text", [*HOSTILE, "\\"])
def test_a_long_hostile_text_takes_time_in_proportion_to_its_length(text):
    def took(times):
        began = time.process_time()
        masked("token=" + text * times + "x")
        return time.process_time() - began

    assert took(8000) < 40 * max(took(1000), 0.01)  # 64 times as much, were it the square
