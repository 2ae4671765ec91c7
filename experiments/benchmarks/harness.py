"""Functions for all benchmarks: flags, subjects that take turns, the machine's limits, and the final report."""

import collections
import contextlib
import dataclasses
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tyro

import jaxcnn as jc
from experiments.benchmarks import machine, report
from experiments.benchmarks.subprocess_worker import FailedError, Worker
from experiments.settings import one_of

NEEDS = {
    "jaxcnn": (), "keras-tensorflow": ("keras", "tensorflow"), "keras-jax": ("keras", "jax"), "torch": ("torch",),
    "torch-compile": ("torch",), "flax": ("flax", "optax"), "onnxruntime": ("onnxruntime",), "openvino": ("openvino",),
    "tf.data": ("tensorflow",), "grain": ("grain",),
}  # fmt: skip
OWN = ("jaxcnn", "flax")  # these run in our interpreter, so that the default lowering is that of the same JAX
WARM_UP = 2  # calls; the first compiles
PAUSE = 0.05  # threads of the previous subject may still spin for some milliseconds


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags of every benchmark."""

    json: str = ""
    """Write the environment and the rows to this .json file, and a bar chart beside it."""
    only: str = ""
    """Run only the cases whose name contains this text."""
    subjects: tuple[str, ...] = ()
    """Compare only these; by default jaxcnn and all installed peers."""
    repeats: int = 5
    """Number of rounds; every subject runs once per round."""
    peer_python: str = ""
    """Interpreter of the peers, if they are installed in a different environment; Flax always runs in ours."""
    smoke: bool = False
    """Tiny shapes and one round, as a quick check."""


@dataclasses.dataclass
class Bench:
    """One run of a benchmark.

    Attributes:
        config: the flags.
        subjects: the subjects that take part.
        versions: versions of the packages that our interpreter can import, and the peers' interpreter.
        failed: one line per failure of a subject.

    """

    config: Any
    subjects: list[str]
    versions: tuple[Mapping[str, str], Mapping[str, str]]
    failed: list[str] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def rates(self) -> dict[str, Any]:
        """The machine's limits, measured at first use: `matmul_gflops`, `copy_gbs`, `device`, `device_platform`."""
        size = (
            {"size": 256, "megabytes": 4, "repeats": 2}
            if self.config.smoke
            else {"size": 2048, "megabytes": 256, "repeats": 10}
        )
        with contextlib.closing(Worker(sys.executable, "roofline", "rates")) as worker:
            worker.ask("prepare", case=size)
            return worker.ask("facts")

    def python(self, subject: str) -> str:
        """Return the interpreter of a subject."""
        return sys.executable if subject in OWN or not self.config.peer_python else self.config.peer_python

    def lacking(self, needs: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Return a dict from each subject that lacks a module to the reason."""
        own, theirs = self.versions
        return machine.missing(needs, {s: own if s in OWN else theirs for s in needs})

    def give_up(self, case: str, subject: str, error: FailedError) -> None:
        """Report that a subject failed in a case, and continue without it."""
        self.failed.append(f"{case}: {subject} left out: {error}")
        say(self.failed[-1])

    def chosen(self, cases: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cases that `--only` leaves."""
        found = {name: case for name, case in cases.items() if self.config.only.lower() in name.lower()}
        if not found:
            near = list(cases)
            raise jc.InputError(
                f"--only {self.config.only!r}: no case's name has it; such as {near[0]!r} or {near[-1]!r}"
            )
        return found


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def run(
    name: str, config_type: type, subjects: Sequence[str], measure: Callable[[Bench], Iterator[list[report.Row]]]
) -> None:
    """Parse the flags, measure and report; wrong flags give one line and exit code 2.

    Args:
        name: name of the benchmark.
        config_type: subclass of `Settings`.
        subjects: all subjects.
        measure: yields the rows of each case.

    """
    config = tyro.cli(config_type, prog=f"python -m experiments.benchmarks.{name}")
    try:
        _run(name, config, subjects, measure)
    except jc.InputError as error:
        say(f"{name}: {error}")
        sys.exit(2)
    except FailedError as error:  # not of a subject, which would only be left out
        say(f"{name}: stopped: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say(f"{name}: stopped; the rows so far are kept" if config.json else f"{name}: stopped")
        sys.exit(130)


def _run(
    name: str, config: Any, subjects: Sequence[str], measure: Callable[[Bench], Iterator[list[report.Row]]]
) -> None:
    for subject in config.subjects:
        one_of("--subjects", subject, subjects)
    if config.repeats < 1:
        raise jc.InputError(f"--repeats {config.repeats}: must be at least 1")
    report.check_path(config.json)
    config = dataclasses.replace(config, repeats=1) if config.smoke else config
    wanted = [s for s in subjects if not config.subjects or s in config.subjects]
    theirs = machine.versions(config.peer_python or sys.executable)
    environment = machine.environment(name, sys.argv[1:], theirs)
    bench = Bench(config, wanted, (environment["versions"], theirs))
    skipped = bench.lacking({s: NEEDS[s] for s in wanted})
    bench.subjects = [s for s in wanted if s not in skipped]
    for subject, reason in skipped.items():
        say(f"skipped: {subject} ({reason})")
    if not environment["quiet"]:
        busy = f"load {environment['load']} on {environment['cores']} cores"
        say(f"warning: not a quiet machine: {busy}; times may be far too long")
    rows: list[report.Row] = []
    cases = measure(bench)
    device = environment["cpu"] if bench.rates["device_platform"] == "cpu" else bench.rates["device"]
    environment |= {"device": device, "skipped": skipped, "roofline": bench.rates, "failed": bench.failed}
    for more in cases:
        rows += more
        for row in more:
            say(report.line(row))
        report.save(config.json, environment, rows)
    report.table(rows)
    print(roofline(bench.rates, rows))
    report.chart(config.json, f"{name}: {device}, {environment['cores']} cores, {environment['date'][:10]}", rows)


def floor_seconds(work: Mapping[str, float], rates: Mapping[str, Any], bfloat16: bool = False) -> float:
    """Return the least time for `flop` and `bytes`, at the rates of a matrix product and of a copy.

    Args:
        work: `flop` and `bytes`.
        rates: the machine's limits.
        bfloat16: whether to use the rate of bfloat16 products.

    """
    gflops = rates["matmul_gflops_bfloat16" if bfloat16 else "matmul_gflops"]
    return max(work["flop"] / gflops / 1e9, work["bytes"] / rates["copy_gbs"] / 1e9)


def roofline(rates: Mapping[str, Any], rows: Sequence[report.Row]) -> str:
    """Return one line about how close jaxcnn comes to the machine's limits."""
    reached = [row["fraction_of_floor"] for row in rows if row["subject"] == report.US and "fraction_of_floor" in row]
    limits = f"roofline: float32 matrix product {rates['matmul_gflops']:.0f} GFLOP/s, copy {rates['copy_gbs']:.1f} GB/s"
    if not reached:
        return limits
    low, middle, high = (f"{report.number(100 * f(reached))} %" for f in (min, statistics.median, max))
    spread = f" (median of {len(reached)}, from {low} to {high})" if len(reached) > 1 else ""
    return f"{limits}; jaxcnn reaches {middle} of this limit{spread}, by the FLOP of the default lowering"


def work(benchmark: str, cases: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Count `flop` and `bytes` of each case, on the default lowering."""
    with contextlib.closing(Worker(sys.executable, benchmark, "floor")) as worker:
        found = {}
        for name, case in cases.items():
            worker.ask("prepare", case=case)
            found[name] = worker.ask("facts")
        return found


def in_turn(
    bench: Bench, benchmark: str, name: str, case: Any, subjects: Sequence[str], seconds: float = 0.3, most: int = 10
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """Time a case: each subject has its own process, and only one works at a time, in several rounds.

    Args:
        bench: the benchmark.
        benchmark: file in `peers` with the functions of the subjects.
        name: name of the case.
        case: arguments of these functions.
        subjects: the subjects.
        seconds: approximate duration of a turn, after a first call that does not count unless it takes that long.
        most: largest number of calls per turn.

    Returns:
        Dicts from subject to the median of each turn in seconds, and to further facts.

    """
    samples, facts = collections.defaultdict(list), {}
    with contextlib.ExitStack() as stack:
        workers = {s: stack.enter_context(contextlib.closing(Worker(bench.python(s), benchmark, s))) for s in subjects}

        def each(ask: Callable[[str, Worker], None]) -> None:
            for subject, worker in list(workers.items()):
                try:
                    ask(subject, worker)
                except FailedError as error:
                    bench.give_up(name, subject, error)
                    workers.pop(subject).close()
                    samples.pop(subject, None)

        def turn(subject: str, worker: Worker) -> None:
            time.sleep(PAUSE)
            samples[subject].append(statistics.median(worker.ask("time", seconds=seconds, most=most)["times"]))

        each(lambda _, worker: worker.ask("prepare", case=case))
        for _ in range(WARM_UP):
            each(lambda _, worker: worker.ask("time", seconds=0, most=1))
        for _ in range(bench.config.repeats):
            each(turn)
        each(lambda subject, worker: facts.update({subject: worker.ask("memory")}))
        each(lambda subject, worker: facts[subject].update(worker.ask("facts")))
    return {s: samples[s] for s in workers}, facts
