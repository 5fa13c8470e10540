"""A call that may take only so long."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any


class OutOfTimeError(BaseException):
    """The call took longer than it may; no Exception, so that `except Exception` in it does not hide this."""


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What the call returns; raises OutOfTimeError when it takes longer than `seconds`, and what it raises itself.

    In the main thread the call is interrupted by a signal, unless it sets the same timer itself. In another thread it
    is left to itself, and its thread does not keep the process alive.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _interrupted(seconds, call)
    return _left_alone(seconds, call)


def _interrupted(seconds: float, call: Callable[[], Any]) -> Any:
    def stop(*_: object) -> None:
        raise OutOfTimeError

    before, started_s = signal.signal(signal.SIGALRM, stop), time.monotonic()
    # Again each second, should something in the call swallow the first one.
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
        if left_s:  # whoever set the timer before gets what is left of it
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - started_s), 1e-3), interval_s)


def _left_alone(seconds: float, call: Callable[[], Any]) -> Any:
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((True, call()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise OutOfTimeError
    returned, value = outcome[0]
    if returned:
        return value
    raise value
