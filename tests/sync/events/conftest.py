"""Fixtures of the tests of S3's messages."""

import pytest
from support.clients import queue_of


@pytest.fixture
def url(server, bucket):
    """A queue that S3 tells of all that happens to `bucket`."""
    return queue_of(server, bucket)


@pytest.fixture
def gaps():
    """The gaps that are told of."""
    return []
