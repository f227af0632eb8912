"""The form of a call: botocore refuses an ill-formed one without asking S3, in words of its own.

Any thread may call these functions. What they find about a shape is kept as long as the shape
lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from botocore.exceptions import ParamValidationError
from botocore.handlers import validate_bucket_name
from botocore.validate import ParamValidator

from mimicfs.s3.transport.calls import Params

# botocore makes strings of these members before it looks at them, if they are of these types.
_MADE: dict[str, tuple[type, ...]] = {
    "CopySource": (dict,),
    "SSECustomerKey": (bytes, bytearray),
    "CopySourceSSECustomerKey": (bytes, bytearray),
}
_SIMPLE = {"string": str, "blob": bytes}  # the types of botocore, and those of their values

_Types = tuple[Mapping[str, type], frozenset[str]]
# The results of `_types`. A shape holds the whole model of its client's service: 2 MB, which are
# not kept for clients that are gone.
_known: WeakKeyDictionary[Any, _Types] = WeakKeyDictionary()


def is_refused(client: Any, operation: str, params: Params) -> bool:
    """Whether *client* will refuse *params* of *operation*, unless a hook changes them."""
    return _refusal(client, operation, params) is not None or _is_misnamed(
        client, operation, params
    )


def _is_misnamed(client: Any, operation: str, params: Params) -> bool:
    """Whether *client* will refuse the name of the bucket. (Programs can switch that off.)"""
    if not isinstance(params.get("Bucket"), str):
        return False
    try:
        validate_bucket_name(params)
    except ParamValidationError:
        handlers = client.meta.events._emitter._handlers
        event = f"before-parameter-build.s3.{operation}"
        return validate_bucket_name in handlers.prefix_search(event)
    return False


def check(client: Any, operation: str, params: Params) -> None:
    """Raise ParamValidationError if *client* refuses *params* of *operation*."""
    report = _refusal(client, operation, params)
    if report is not None:
        raise ParamValidationError(report=report)


def _refusal(client: Any, operation: str, params: Params) -> str | None:
    shape = client.meta.service_model.operation_model(operation).input_shape
    if shape is None or not client.meta.config.parameter_validation or _is_simple(shape, params):
        return None
    given = {name: "" if _is_made(name, value) else value for name, value in params.items()}
    errors = ParamValidator().validate(given, shape)
    return str(errors.generate_report()) if errors.has_errors() else None


def _is_simple(shape: Any, params: Params) -> bool:
    """Whether *params* are just texts, and bytes, that botocore takes: most calls have no others.
    This check takes a tenth of the time of the validator."""
    found = _known.get(shape)
    if found is None:
        found = _known[shape] = _types(shape)
    types, required = found
    return required <= params.keys() and all(
        value and type(value) is types.get(name) for name, value in params.items()
    )


def _types(shape: Any) -> _Types:
    """Return the types of those members of *shape* for which every value that is not empty is
    valid, and the members that a call must have."""
    simple = {
        name: _SIMPLE[member.type_name]
        for name, member in shape.members.items()
        if member.type_name in _SIMPLE and member.metadata.get("min", 0) <= 1
    }
    return simple, frozenset(shape.required_members)


def _is_made(name: str, value: Any) -> bool:
    """Whether botocore makes a string of *value*."""
    if name == "CopySource" and isinstance(value, dict) and not {"Bucket", "Key"} <= value.keys():
        return False
    return isinstance(value, _MADE.get(name, ()))
