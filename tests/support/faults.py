"""What S3 and the network do on a bad day, for `Proxy.rule`: at exact points, or by chance."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from support.proxy import Request, Rule

_HOP = {"connection", "keep-alive", "transfer-encoding"}


class Fault(Rule):
    """Befalls the first *times* requests for which *matches* is true; with *chance*, each of
    them with that probability, by the dice of *seed*."""

    def __init__(
        self,
        matches: Callable[[Request], bool],
        times: int = 1,
        chance: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(matches)
        self._left = times
        self._chance = chance
        self._dice = random.Random(seed)

    def applies(self, request: Request) -> bool:
        if not self.matches(request) or not self._left or self._dice.random() >= self._chance:
            return False
        self._left -= 1
        return True


class Refuse(Fault):
    """The answer is *status* and *code*, with *headers*, and *more* than the code in its body.
    *early*: before the body of the request was read."""

    def __init__(
        self,
        matches: Callable[[Request], bool],
        status: int,
        code: str,
        *,
        headers: dict[str, str] | None = None,
        more: str = "",
        early: bool = False,
        **when: Any,
    ) -> None:
        super().__init__(matches, **when)
        self._status = status
        self._body = f"<?xml version='1.0'?><Error><Code>{code}</Code>{more}</Error>".encode()
        self._headers = headers or {}
        self._early = early

    def before(self, handler: Any) -> bool:
        if not self._early:
            handler.body()
        handler.send(self._status, [*self._headers.items()], self._body)
        if self._early:
            handler.close_connection = True
        return True


class Reset(Fault):
    """The connection is reset: before the server sees the request, *unseen*, or in the middle
    of the answer, after *keep* bytes of its body."""

    def __init__(self, matches: Callable[[Request], bool], keep: int | None, **when: Any) -> None:
        super().__init__(matches, **when)
        self._keep = keep

    def before(self, handler: Any) -> bool:
        if self._keep is None:
            _reset(handler)
        return self._keep is None

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        _begin(handler, response, self._keep or 0)
        _reset(handler)
        return True


class Stall(Fault):
    """Nothing comes any more: before the server sees the request (*keep* is None; *early*: nor
    is its body read), or after *keep* bytes of the answer's body. Ends with the rule."""

    def __init__(
        self,
        matches: Callable[[Request], bool],
        keep: int | None,
        *,
        early: bool = False,
        **when: Any,
    ) -> None:
        super().__init__(matches, **when)
        self._keep = keep
        self._early = early
        self.begun = threading.Event()  # what is to come has come
        self.ended = threading.Event()

    def end(self) -> None:
        self.ended.set()

    def before(self, handler: Any) -> bool:
        if self._keep is None:
            if not self._early:
                handler.body()
            self.ended.wait(30)
            handler.close_connection = True
        return self._keep is None

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        _begin(handler, response, self._keep or 0)
        self.begun.set()
        self.ended.wait(30)
        return True


class Drip(Fault):
    """The answer comes a byte each *pause_s*: all of it, its headers too."""

    def __init__(self, matches: Callable[[Request], bool], pause_s: float, **when: Any) -> None:
        super().__init__(matches, **when)
        self._pause_s = pause_s
        self.ended = threading.Event()

    def end(self) -> None:
        self.ended.set()

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        lines = [f"HTTP/1.1 {response.status} OK"]
        lines += [f"{name}: {value}" for name, value in response.getheaders()]
        whole = "\r\n".join([*lines, "", ""]).encode() + response.read()
        handler.close_connection = True
        try:
            for n in range(len(whole)):
                if self.ended.wait(self._pause_s):
                    break
                handler.wfile.write(whole[n : n + 1])
        except OSError:
            return True  # who asked has given up
        return True


class Headers(Fault):
    """The answer has these headers, instead of its own of the same names."""

    def __init__(
        self, matches: Callable[[Request], bool], headers: dict[str, str], **when: Any
    ) -> None:
        super().__init__(matches, **when)
        self._headers = headers

    def after(self, handler: Any, response: http.client.HTTPResponse) -> bool:
        replaced = {name.lower() for name in self._headers} | _HOP | {"content-length"}
        kept = [(k, v) for k, v in response.getheaders() if k.lower() not in replaced]
        handler.send(response.status, [*kept, *self._headers.items()], response.read())
        return True


def _begin(handler: Any, response: http.client.HTTPResponse, keep: int) -> None:
    """Pass on the head of the answer and *keep* bytes of its body; no more will come."""
    headers = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP]
    handler.head(response.status, headers)
    handler.wfile.write(response.read(keep))
    handler.close_connection = True
    handler.server_side.close()


def _reset(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.rfile.close()  # else the connection stays open for it
    handler.connection.close()
