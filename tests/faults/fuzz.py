"""A fuzzer for every reader of files: `python -m tests.faults.fuzz --inputs 10000 --seed 0`.

Each input begins as an intact file or folder. Some stay unchanged, most get one to five changes (`changes`), and the
rest are no longer files of that kind: empty, noise, a pipe, a link to a device. A reader must return rows or raise an
`InputError` of one line. Any other exception, 10 seconds, or 2 GB of memory is a fault, and so are different rows from
an unchanged file. Inputs are a function of (seed, reader, number), so that `--reader NAME --only NUMBER` repeats one.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import logging
import multiprocessing
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter

import numpy as np

from tests.faults import changes, readers

SECONDS, BYTES = 10, 2 * 2**30
HANGS, START = SECONDS + 20, 300  # until a process counts as hanging; the first input waits for imports
SOUND, CHANGED = 0.05, 0.75  # shares; the rest is unsound


class Slow(BaseException):
    """The time for an input is over; no `except Exception` of a reader holds it back."""


def inputs_of(reader, number, seed, root):
    """Make one input in a new folder, and return how it was made and its path."""
    rng = np.random.default_rng([seed, *reader.name.encode(), number])
    place = pathlib.Path(tempfile.mkdtemp(dir=root))
    target = place / "in"
    shutil.copytree(root / reader.name, target)
    draw = rng.random()
    if draw < SOUND:
        return "sound", target
    files = sorted(p for p in target.rglob("*") if p.is_file() and reader.wanted(p))
    if draw < SOUND + CHANGED:
        for _ in range(int(rng.integers(1, 6))):
            path = files[int(rng.integers(len(files)))]
            changes.apply(path, rng, reader.special(path))
        return "changed", target
    kind = changes.UNSOUND[int(rng.integers(len(changes.UNSOUND)))]
    kind(files[int(rng.integers(len(files)))], rng)
    return kind.__name__, target


def digest(arrays):
    total = hashlib.sha256()
    for x in arrays:
        x = np.ascontiguousarray(x)
        total.update(f"{x.dtype}{x.shape}".encode() + (x.tobytes() if x.dtype != object else repr(x.tolist()).encode()))
    return total.hexdigest()


def _memory(reset=False):
    """Return the peak memory since the last reset, in bytes; 0 if the system does not report it."""
    with contextlib.suppress(OSError):
        if reset:
            pathlib.Path("/proc/self/clear_refs").write_text("5")
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return 0


def _late(*_):
    raise Slow


def one(reader, number, seed, root, right):
    """Read one input, and return (how it was made, the outcome, a line about a fault)."""
    how, target = inputs_of(reader, number, seed, root)
    elsewhere = []
    threading.excepthook = lambda error: elsewhere.append(error.exc_value)
    before, began = _memory(reset=True), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = digest(reader.read(target))
        signal.setitimer(signal.ITIMER_REAL, 0)
        outcome, fault = ("read", "") if how != "sound" or found == right else ("fault", "other rows than before")
    except readers.REFUSED as error:
        line = str(error)
        bad = not line.strip() or any(not (c.isprintable() or c == " ") for c in line)
        outcome, fault = ("fault", f"the line is {line!r}") if bad or how == "sound" else ("refused", "")
    except Slow:
        outcome, fault = "fault", f"longer than {SECONDS} s"
    except BaseException as error:
        outcome, fault = "fault", f"{type(error).__name__}: {error} at {traceback.format_exc().splitlines()[-4:-1]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown, seconds = _memory() - before, time.monotonic() - began
    if grown > BYTES:
        outcome, fault = "fault", f"{grown / 2**30:.1f} GB"
    if elsewhere:
        outcome, fault = "fault", f"in a thread: {elsewhere[0]!r}"
    _discard(target.parent)
    return how, outcome, fault, seconds, grown


def _discard(folder):
    shutil.rmtree(folder, ignore_errors=True)


def some(name, numbers, seed, root):
    """Read inputs of one reader, and yield the results of `one`."""
    reader = readers.READERS[name]
    signal.signal(signal.SIGALRM, _late)
    logging.disable(logging.CRITICAL)
    if name == "array_record":  # a changed description can make it a set of tfrecord files
        importlib.import_module("tensorflow")
    right = digest(reader.read(root / name))
    for number in numbers:
        yield number, *one(reader, number, seed, root, right)


def _work(pipe, name, numbers, seed, root):
    """Read inputs in a separate process, which announces and reports each; output of native threads is discarded."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    for result in some(name, numbers, seed, pathlib.Path(root)):
        pipe.send(result)
    pipe.send(None)


class Worker:
    """A process that reads the inputs `numbers` of one reader; it restarts after an input that killed or hung it."""

    def __init__(self, name, numbers, seed, root):
        self.name, self.left, self.seed, self.root = name, list(numbers), seed, root
        self.begin()

    def begin(self):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(
            target=_work, args=(theirs, self.name, self.left, self.seed, self.root), daemon=True
        )
        self.process.start()
        theirs.close()
        self.until = time.monotonic() + START

    def results(self):
        """What has come since; it ends with a process that is gone or hangs, whose input is then at fault."""
        out = []
        try:
            while self.left and self.pipe.poll(0.05):
                result = self.pipe.recv()
                if result is None:
                    break
                self.left.remove(result[0])
                self.until = time.monotonic() + HANGS
                out.append(result)
        except EOFError:
            out.append(self.lost(f"the process died, exit code {self.process.exitcode}"))
        if self.left and time.monotonic() > self.until:
            out.append(self.lost(f"hangs in native code, longer than {HANGS} s"))
        if not self.left:
            self.process.join(5)
            self.process.kill()
        return out

    def lost(self, why):
        self.process.kill()
        self.process.join()
        number = self.left.pop(0)
        if self.left:
            self.begin()
        return number, "changed", "fault", why, 0.0, 0


def shares(inputs, names):
    """How many inputs each reader gets: by weight, so that slow readers get fewer."""
    weights = np.array([readers.READERS[name].weight for name in names], float)
    counts = np.floor(inputs * weights / weights.sum()).astype(int)
    counts[0] += inputs - counts.sum()
    return dict(zip(names, counts.tolist(), strict=True))


def fuzz(inputs, seed, names, only=None, processes=2, say=lambda line: None):
    """Run the fuzzer: a Counter of (reader, how, outcome), the faults, the longest time, the most memory."""
    found, faults, longest, most = Counter(), [], 0.0, 0
    with tempfile.TemporaryDirectory() as root:
        for name in names:
            readers.READERS[name].make(pathlib.Path(root) / name)
        jobs = []
        for name, n in shares(inputs, names).items():
            numbers = [only] if only is not None else range(n)
            jobs += [(name, numbers[i : i + 500], seed, root) for i in range(0, len(numbers), 500)]
        working = []
        while jobs or working:
            while jobs and len(working) < processes:
                working.append(Worker(*jobs.pop(0)))
            for worker in working:
                for number, how, outcome, fault, seconds, grown in worker.results():
                    found[worker.name, how if how in ("sound", "changed") else "unsound", outcome] += 1
                    longest, most = max(longest, seconds), max(most, grown)
                    if fault:
                        faults.append(f"{worker.name} {number} ({how}): {fault}")
                        say(faults[-1])
            working = [worker for worker in working if worker.left]
    return found, faults, longest, most


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=sorted(readers.READERS), action="append")
    parser.add_argument("--only", type=int)
    flags = parser.parse_args()
    names = flags.reader or sorted(readers.READERS)
    found, faults, longest, most = fuzz(
        flags.inputs, flags.seed, names, flags.only, say=lambda line: print(line[:500], flush=True)
    )
    print("reader            inputs   sound  changed  unsound  changed and read  refused  faults")
    for name in names:
        mine = {key[1:]: n for key, n in found.items() if key[0] == name}
        made = [sum(n for (how, _), n in mine.items() if how == kind) for kind in ("sound", "changed", "unsound")]
        ended = [sum(n for (_, outcome), n in mine.items() if outcome == kind) for kind in ("refused", "fault")]
        columns = (sum(made), *made, mine.get(("changed", "read"), 0), *ended)
        print(name.ljust(16), "{:7d} {:7d} {:8d} {:8d} {:17d} {:8d} {:7d}".format(*columns))
    print(
        json.dumps(
            {
                "inputs": sum(found.values()),
                "faults": len(faults),
                "longest_seconds": round(longest, 2),
                "most_MB": most >> 20,
            }
        )
    )
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
