"""The other end of mounts.Client: calls what it is told to, and answers with the outcome."""

from __future__ import annotations

import importlib
import os
import pickle
import struct
import sys
import traceback
from typing import Any


def main() -> None:
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # prints of the functions called must not mix with the answers
    while head := requests.read(4):
        module, name, args = pickle.loads(requests.read(struct.unpack("<I", head)[0]))
        outcome: tuple[Any, Exception | None]
        try:
            outcome = (getattr(importlib.import_module(module), name)(*args), None)
        except Exception as exc:
            exc.add_note(traceback.format_exc())
            outcome = (None, exc)
        data = pickle.dumps(outcome)
        answers.write(struct.pack("<I", len(data)) + data)
        answers.flush()


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    main()
