"""Processes for the subjects: workers that answer each request with a JSON line, and whole watched commands."""

import json
import math
import os
import pathlib
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 900.0  # seconds without an answer after which a subject is left out
# several workers share a GPU, so none may reserve all of its memory
SHARED_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def start_of(python: str, module: str, own: bool) -> list[str]:
    """Return the beginning of a command.

    Args:
        python: interpreter.
        module: module of the benchmarks.
        own: whether to start it like an experiment; otherwise, `experiments` changes nothing in the process.

    """
    name = f"experiments.benchmarks.{module}"
    return [python, "-m", name] if own else [python, "-c", f"from {name} import main; main()"]


class FailedError(Exception):
    """A subject failed in a case; one line gives the reason."""


class Worker:
    """One subject in a separate process; see `experiments.benchmarks.worker`."""

    def __init__(self, python: str, benchmark: str, subject: str):
        """Start the process."""
        self.subject = subject
        command = start_of(python, "worker", own=subject in ("jaxcnn", "rates"))
        self.process, self.errors = _start(
            [*command, benchmark, subject], SHARED_GPU | os.environ, stdin=subprocess.PIPE
        )

    def ask(self, do: str, patience: float = PATIENCE, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            FailedError: the subject failed, ended, or took longer than `patience` seconds.

        """
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise FailedError(self._last_words()) from None
        if not select.select([self.process.stdout], [], [], patience)[0]:
            raise FailedError(f"no answer in {patience:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            raise FailedError(self._last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise FailedError(answer["failed"])
        return answer

    def _last_words(self) -> str:
        return f"ended with code {self.process.wait()}: {_last_line(self.errors)}"

    def close(self) -> None:
        """End the process and its children."""
        _end(self.process, self.errors)


class Watched(NamedTuple):
    """A command that ran to its end.

    Attributes:
        seconds: from start to exit.
        lines: its output lines, each with the seconds since the start.
        peaks: each new peak of its resident set in MB, with the seconds since the start.
        began: start time, by `time.time`.

    """

    seconds: float
    lines: list[tuple[float, str]]
    peaks: list[tuple[float, float]]
    began: float = 0.0

    def peak_memory_mb(self, by: float = math.inf) -> float:
        """Return the peak of the resident set up to `by` seconds after the start."""
        return max((peak for at, peak in self.peaks if at <= by), default=0.0)

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the JSON lines of one kind, with the seconds since the start as `"at"`."""
        found = [json.loads(line) | {"at": at} for at, line in self.lines if line.startswith('{"event"')]
        return [event for event in found if event["event"] == kind]


def watch(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    until: Callable[[str], bool] = lambda line: False,
    patience: float = PATIENCE,
) -> Watched:
    """Run a command to its end, or to the line that `until` accepts, and record its output and its memory.

    Args:
        command: program and arguments.
        env: additional environment variables.
        until: predicate of an output line.
        patience: longest time without output, in seconds.

    Raises:
        FailedError: the command failed, or printed nothing for longer than `patience` seconds.

    """
    began, start, rest = time.time(), time.perf_counter(), b""
    lines: list[tuple[float, str]] = []
    peaks = [(0.0, 0.0)]
    process, errors = _start(command, os.environ | (env or {}))
    heard, output = start, process.stdout.fileno()

    def clock():
        return time.perf_counter() - start

    try:
        while True:
            if (peak := peak_resident_mb(process.pid)) > peaks[-1][1]:
                peaks.append((clock(), peak))
            if select.select([output], [], [], 0.02)[0]:
                heard, part = time.perf_counter(), os.read(output, 1 << 16)
                if not part:
                    if code := process.wait():
                        raise FailedError(f"ended with code {code}: {_last_line(errors)}")
                    return Watched(clock(), lines, peaks, began)
                *whole, rest = (rest + part).split(b"\n")
                for line in whole:
                    lines.append((heard - start, line.decode(errors="replace")))
                    if until(lines[-1][1]):
                        return Watched(clock(), lines, peaks, began)
            elif time.perf_counter() - heard > patience:
                raise FailedError(f"printed nothing for {patience:.0f} s")
    finally:
        _end(process, errors)


def peak_resident_mb(pid: int) -> float:
    """Return the peak resident set of a process so far, in MB; 0 if it has ended or there is no /proc."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 2**10 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def _start(command: Sequence[str], env: Mapping[str, str], **options: Any) -> tuple[subprocess.Popen, Any]:
    """Start a command in the repository, in a new session, so that it ends with its children; errors go to a file."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by _end)
    process = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, **options
    )
    return process, errors


def _last_line(errors: Any) -> str:
    errors.seek(0)
    text = errors.read().decode(errors="replace")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no error output")


def _end(process: subprocess.Popen, errors: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        if stream:
            try:
                stream.close()
            except BrokenPipeError:
                pass
