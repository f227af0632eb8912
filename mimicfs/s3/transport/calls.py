"""The types of a call of boto3's client, as its `_make_api_call` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Params = Mapping[str, Any]
Answer = Mapping[str, Any]
CallParams = dict[str, Any]  # the parameters of one call, which its layers may change
Ask = Callable[[str, CallParams], Any]  # given the name of the operation
