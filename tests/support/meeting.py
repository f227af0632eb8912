"""An S3 that is slow, for tests in which two mounts meet."""

from __future__ import annotations

import random
import time

from support.proxy import Rule


class Late(Rule):
    """Each request reaches S3 late, and its answer comes late: by *most_s* together."""

    def __init__(self, chance: random.Random, most_s: float) -> None:
        super().__init__(lambda request: request.kind in ("PUT", "COPY", "DELETE", "POST", "HEAD"))
        self._chance, self._most_s = chance, most_s

    def before(self, handler):
        time.sleep(self._chance.uniform(0, self._most_s / 2))
        return False

    def after(self, handler, response):
        time.sleep(self._chance.uniform(0, self._most_s / 2))
        return False
