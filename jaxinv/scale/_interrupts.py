"""Ctrl-C during a run with a store: the running chunk is finished and written first."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """In this context the first SIGINT sets `asked`, and the second raises `KeyboardInterrupt` at once.

    - `active`: whether to change anything at all; only the main thread of a program can.
    """

    def __init__(self, active: bool):
        self.asked = False
        self.active = active and threading.current_thread() is threading.main_thread()
        self.before: Any = None

    def __enter__(self) -> "Interrupts":
        if self.active:
            self.before = signal.getsignal(signal.SIGINT)
            # A process that ignores the signal, as a job in the background does, keeps ignoring it.
            self.active = self.before not in (signal.SIG_IGN, None)
        if self.active:
            signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
