"""What goes on beside training: work that is needed later, memory that is given back, a trace of a few dispatches."""

import contextlib
import ctypes
import logging
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.core.files import writable
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason

TRACED = 4  # dispatches in a profile: the first ones are short
log = logging.getLogger("jaxcnn")


def meanwhile(*work: Callable[[], Any]) -> None:
    """Do what is only needed later on a thread of its own: training leaves the interpreter, and at times a core, idle."""

    def run() -> None:
        for one in work:
            with contextlib.suppress(Exception):  # whoever needs it does it again, and says what is wrong
                one()

    with contextlib.suppress(RuntimeError):  # no more threads can be started
        threading.Thread(target=run, name="meanwhile").start()


def return_memory() -> None:
    """Give back to the system what the allocator keeps: after compiling, a hundred megabytes; nothing where it is not glibc's."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Profile:
    """A trace of a few dispatches, begun after the first one, which compiles; for TensorBoard, XProf and Perfetto.

    Args:
        folder: where it goes, made if absent; empty for no trace.

    Raises:
        InputError: nothing can be written there.

    """

    def __init__(self, folder: str):
        self.folder, self.seen, self.running = folder, 0, False
        if folder:
            try:
                writable(pathlib.Path(folder))
            except OSError as error:
                raise InputError(
                    f"{visible(folder)}: cannot be written ({error.strerror}); give another folder"
                ) from error

    def dispatch(self) -> None:
        """Count a dispatch that has ended: the first begins the trace, a later one ends it."""
        self.seen += 1
        if self.folder and self.seen == 1:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # it would slow down what is measured
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True, profiler_options=options)
            self.running = True
        elif self.seen > TRACED:
            self.close()

    def close(self) -> None:
        """Write the trace, if one is running."""
        if self.running:
            self.running = False
            try:
                jax.profiler.stop_trace()
                newest = max(pathlib.Path(self.folder).glob("plugins/profile/*"))
            except Exception as error:  # a trace is no reason to lose a run
                log.warning("profile: not written to %s (%s)", self.folder, reason(error))
                return
            where = f"tensorboard --logdir {self.folder}, or perfetto_trace.json.gz at ui.perfetto.dev"
            print(visible(f"profile: {newest} ({where})"), flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
