"""What PID 1 hears: signals, and the ends of its children and of their orphans."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
from collections.abc import Iterator
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36


def become_reaper() -> None:
    """Adopt orphans of the ranks. PID 1 does so anyway; this covers an init in front of us."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Wakeups:
    """Signals as bytes on a socket: nothing is missed between two looks, no work in handlers."""

    socket: socket.socket

    def take(self) -> set[int]:
        received: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while chunk := self.socket.recv(256):
                received.update(chunk)
        return received


@contextlib.contextmanager
def signals() -> Iterator[Wakeups]:
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watched = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
    previous = {number: signal.signal(number, lambda *_: None) for number in watched}
    # Blocked since the start of main: what came meanwhile is delivered now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield Wakeups(reader)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(previous_fd)
        reader.close()
        writer.close()
