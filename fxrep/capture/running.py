"""Which functions of the user's run behind a call that may have given None, and whether one of them asks for that.

What code may go through asks such questions nearly everywhere; what it does go through, seldom.
"""

from __future__ import annotations

import sys
from types import CodeType, FrameType
from typing import Any

from .bytecode import asks_for_none
from .piece import Call

NOT_USERS = {"torch", "fxrep"}
TRACER = f"{__package__}.tracer"


class Running:
    """The code that runs, of each call in which something may have given None, from there on to its end."""

    def __init__(self) -> None:
        self.codes: dict[Call, set[CodeType]] = {}
        self.names: dict[Call, str] = {}
        self.watching = False

    def note(self, call: Call, name: str) -> bool:
        """Watch what runs until ``call`` ends; False if somebody else watches, a profiler, say."""
        if not self.watching and sys.getprofile() is not None:
            return False
        running = self.codes.setdefault(call, set())
        self.names.setdefault(call, name)
        running.update(self._outer(sys._getframe(1)))
        if not self.watching:
            sys.setprofile(self._see)
            self.watching = True
        return True

    def settle(self, call: Call) -> None:
        """Raise ``TypeError`` if code that ran in ``call`` since then asks whether something is None."""
        running, name = self.codes.get(call, ()), self.names.get(call)
        self.forget(call)
        if any(any(asks_for_none(code)) for code in running):
            raise TypeError(f"its forward may ask whether what {name}, which is not traced, gives is None")

    def forget(self, call: Call) -> None:
        self.codes.pop(call, None)
        if not self.codes:
            self.stop()

    def stop(self) -> None:
        self.codes.clear()
        if self.watching:
            sys.setprofile(None)
            self.watching = False

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and _is_users(frame):
            for codes in self.codes.values():
                codes.add(frame.f_code)

    @staticmethod
    def _outer(frame: FrameType | None) -> set[CodeType]:
        """The code of the functions that wait for the value, as far out as the forward of the call."""
        found = set[CodeType]()
        while frame is not None and not (found and _is_trace(frame)):
            if _is_users(frame):
                found.add(frame.f_code)
            frame = frame.f_back
        return found


def _is_users(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).split(".")[0] not in NOT_USERS


def _is_trace(frame: FrameType) -> bool:
    """Whether this is the tracer, which runs the forward of a call."""
    return frame.f_globals.get("__name__") == TRACER and frame.f_code.co_name in ("call_module", "run")
