"""A large bucket and its mirror."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.big import Big


@pytest.fixture
def big(lists) -> Iterator[Big]:
    big = Big(lists)
    yield big
    big.close()
