"""SIGTERM and SIGINT: training stops after the current dispatch; at other times the program ends at once."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

CODES: dict[int, int] = {signal.SIGTERM: 143, signal.SIGINT: 130}  # the exit codes that a shell reports


class Signals:
    """Watches both signals from a background thread, which receives them even during a long call, such as compiling.

    A second SIGINT ends the program at once. Saved checkpoints stay intact, because a checkpoint is renamed into place
    once it is complete.

    Args:
        leave: called with the exit code when a signal ends the program; it must not return. By default the process
            exits at once.
        done: function that returns whether the result is complete; if so, a second SIGINT exits with code 0.

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
        with self.lock:  # only one of the two threads may call `leave`
            self.leave(self.code)

    @property
    def code(self) -> int:
        """The exit code for the received signal; 0 if there is none."""
        return CODES.get(self.received, 0)

    @contextlib.contextmanager
    def while_training(self) -> Iterator[None]:
        """Defer signals during training, which polls `stop`, or during a short operation that must finish.

        A signal that was not acted on ends the program when the context exits.
        """
        self.training = True
        try:
            yield
        finally:
            self.training = False
        if self.received:
            self._leave()

    def ignore(self) -> None:
        """Do not end the program at a signal from now on, only record it; a second SIGINT still ends the program."""
        self.training = True

    def stop(self) -> bool:
        """Whether a signal has arrived."""
        return bool(self.received)

    def close(self) -> None:
        """Restore the previous signal handlers."""
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.before.items():
            signal.signal(number, handler)
        os.write(self.writing, b"\0")
