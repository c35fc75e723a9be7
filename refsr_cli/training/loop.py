"""Around the training loop: how fast it goes, and how it is stopped between two steps."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Clock:
    """Steps a second, lap by lap. The first step, which warms up, does not count."""

    def __init__(self) -> None:
        self._steps, self._total, self._begin, self._pace = 0, 0, time.monotonic(), 0.0

    def tick(self) -> int:
        """Counts a step; how many there were in all."""
        self._total += 1
        if self._total == 1:
            self._begin = time.monotonic()
        else:
            self._steps += 1
        return self._total

    @property
    def pace(self) -> float:
        """Steps a second since the last lap."""
        return self._steps / max(1e-9, time.monotonic() - self._begin) if self._steps else self._pace or 1.0

    def lap(self) -> float:
        """The pace since the last lap; begins a new one."""
        self._pace = self.pace
        self._steps, self._begin = 0, time.monotonic()
        return self._pace

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens inside does not count."""
        begin = time.monotonic()
        yield
        self._begin += time.monotonic() - begin


@contextmanager
def interrupts_deferred() -> Iterator[threading.Event]:
    """SIGINT, SIGTERM and SIGHUP set the event instead of breaking a step in two; a second one breaks off.

    Only the main thread can hear them.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(*_: object) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    hang_up = getattr(signal, "SIGHUP", None)  # which `nohup` switches off, to go on without a terminal
    heeded = [its for its in _INTERRUPTS if its != hang_up or signal.getsignal(its) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, note) for number in heeded}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
