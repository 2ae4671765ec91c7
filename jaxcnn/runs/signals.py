"""SIGTERM and SIGINT: while training they are a question that it asks between dispatches, elsewhere they end the program at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}  # exit codes, as a shell has them


class Signals:
    """Watches both signals from a thread of its own, which hears them also during a call that takes minutes, such as compiling.

    A second SIGINT ends the program at once; what is saved stays whole, because a checkpoint becomes visible by renaming.

    Args:
        leave: called with the exit code where a signal ends the program; it must not return. By default the program ends at once.
        done: whether the run's result is there, so that a signal takes nothing away: a second SIGINT then ends the program with 0.

    """

    def __init__(self, leave: Callable[[int], None] = os._exit, done: Callable[[], bool] = lambda: False):
        self.leave, self.done, self.received, self.training = leave, done, 0, False
        self.lock = threading.Lock()
        self.reading, writing = os.pipe()
        os.set_blocking(writing, False)
        self.writing = writing
        self.wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, name="signals", daemon=True).start()
        self.before = {number: signal.signal(number, lambda *_: None) for number in CODES}

    def _watch(self) -> None:
        while number := os.read(self.reading, 1)[0]:
            if number not in CODES:
                continue
            if self.received and number == signal.SIGINT:
                os._exit(0 if self.done() else CODES[number])
            self.received = self.received or number
            if not self.training:
                self._leave()

    def _leave(self) -> None:
        with self.lock:  # one thread says so, and ends the other
            self.leave(self.code)

    @property
    def code(self) -> int:
        """The exit code that the signal asks for."""
        return CODES.get(self.received, 0)

    @contextlib.contextmanager
    def while_training(self) -> Iterator[None]:
        """Let training ask, or something be finished; a signal that came too late for it counts at the end."""
        self.training = True
        try:
            yield
        finally:
            self.training = False
        if self.received:
            self._leave()

    def ignore(self) -> None:
        """From here on only report; a second SIGINT still ends the program."""
        self.training = True

    def stop(self) -> bool:
        """Whether a signal has come."""
        return bool(self.received)

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        os.write(self.writing, b"\0")
