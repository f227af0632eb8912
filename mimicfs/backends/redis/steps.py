"""How a change becomes one step: by scripts or, if the user may not run them, by transactions."""

from __future__ import annotations

import logging
from typing import Any

import redis

from mimicfs.backends.redis.connecting import denies_scripts
from mimicfs.backends.redis.scripts import Scripts
from mimicfs.backends.redis.transactions import Transactions

log = logging.getLogger(__name__)


def steps_of(client: Any, tag: str, where: str) -> Scripts | Transactions:
    """Return the steps that the user of *client* may take. *tag* begins keys of that user; *where*
    names the server."""
    scripts = Scripts(client)
    try:
        scripts.try_all(tag)
    except redis.ResponseError as exc:
        if not denies_scripts(exc):
            raise
        log.info("%s: the user may not run scripts; mimicfs uses transactions", where)
        return Transactions(client)
    return scripts
