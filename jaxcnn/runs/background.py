"""Work in the background of training: early imports, memory returned to the system, a profile of a few dispatches."""

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

TRACED = 4  # dispatches in a profile; the first ones are short
log = logging.getLogger("jaxcnn")


def meanwhile(*work: Callable[[], Any]) -> None:
    """Run functions, one after another, on a background thread: training leaves the interpreter mostly idle.

    Errors are dropped: the code that needs the result repeats the work and reports the error.
    """

    def run() -> None:
        for one in work:
            with contextlib.suppress(Exception):
                one()

    with contextlib.suppress(RuntimeError):  # the system starts no more threads
        threading.Thread(target=run, name="meanwhile").start()


def return_memory() -> None:
    """Return free memory to the system: glibc keeps about 100 MB after compiling. Without glibc, do nothing."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Profile:
    """A trace of a few dispatches for TensorBoard, XProf and Perfetto; it starts after the first one, which compiles.

    Args:
        folder: folder for the trace, created if absent; an empty string disables the trace.

    Raises:
        InputError: The folder cannot be written.

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
        """Count a finished dispatch: the first one starts the trace, a later one stops it."""
        self.seen += 1
        if self.folder and self.seen == 1:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # tracing Python would slow down the measured program
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True, profiler_options=options)
            self.running = True
        elif self.seen > TRACED:
            self.close()

    def close(self) -> None:
        """Stop a running trace and write it."""
        if self.running:
            self.running = False
            try:
                jax.profiler.stop_trace()
                newest = max(pathlib.Path(self.folder).glob("plugins/profile/*"))
            except Exception as error:  # a failed trace must not end the run
                log.warning("profile: not written to %s (%s)", self.folder, reason(error))
                return
            where = f"tensorboard --logdir {self.folder}, or perfetto_trace.json.gz at ui.perfetto.dev"
            print(visible(f"profile: {newest} ({where})"), flush=True)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
