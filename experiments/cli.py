"""The command line that every experiment shares: flags, presets, resume, signals, and exit codes instead of tracebacks."""

import atexit
import contextlib
import dataclasses
import difflib
import gc
import logging
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import tyro

import jaxcnn as jc
from experiments import process
from jaxcnn import runs
from jaxcnn.parallel import STRATEGIES

log = logging.getLogger("jaxcnn")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The flags that every experiment has."""

    epochs: int = 10
    """Passes over the training rows."""
    max_steps: int = 0
    """Stop after so many updates, if that comes first; 0 for no limit."""
    batch_size: int = 128
    """Rows in one update, over all devices."""
    eval_batch_size: int = 256
    """Rows at a time in evaluation, over all devices; changes speed, never the result."""
    seed: int = 0
    """Of the parameters, the order of the rows, dropout and augmentation; splits do not depend on it."""
    strategy: str = "auto"
    """How a step is compiled: auto, jit, sharded, pmap or eager."""
    devices: int = 0
    """How many devices to use; 0 for all that JAX sees."""
    precision: str = "float32"
    """What the network computes in: float32 or bf16 (bfloat16; parameters, statistics, losses and metrics stay float32)."""
    accumulate: int = 1
    """Compute the gradient of a batch in so many parts, one after another, to need less memory."""
    remat: bool = False
    """Compute the stages' values anew in the backward pass instead of keeping them: less memory, more time."""
    early_stopping: int = 0
    """Stop after so many epochs without a better validation loss; 0 for never."""
    validation_fraction: float = 0.1
    """Share of the training rows to make choices on."""
    limit_examples: int = 0
    """Use at most so many rows of each part; 0 for all."""
    workdir: str = ""
    """Where runs get their folders; by default checkpoints/ and the experiment's name."""
    resume: bool = False
    """Continue the newest unfinished run under --workdir, with its settings."""
    checkpoint: str = ""
    """A run's folder, for --evaluate and --predict."""
    evaluate: bool = False
    """Print the test metrics of --checkpoint as one JSON line, and do nothing else."""
    predict: tuple[str, ...] = ()
    """Print class and probabilities of these images with the model of --checkpoint, and do nothing else."""
    smoke: bool = False
    """A run of a few seconds: few rows, few steps."""
    profile: str = ""
    """Folder for a trace of a few dispatches, for TensorBoard, XProf or Perfetto."""
    compilation_cache: str = ""
    """Folder where compiled programs are kept, so that the next run starts sooner; by default one of the user's, off for none."""
    reuse_memory: bool = True
    """On a CPU with glibc, keep large buffers for their next use instead of giving them back to the system each time."""


MAY_CHANGE = {
    "strategy",
    "devices",
    "eval_batch_size",
    "workdir",
    "resume",
    "checkpoint",
    "evaluate",
    "predict",
    "data_dir",
    "profile",
    "compilation_cache",
    "reuse_memory",
}
POSITIVE = ("batch_size", "eval_batch_size", "accumulate")
PRECISIONS = {"float32": {}, "bf16": {"dtype": "bfloat16"}}
NOT_NEGATIVE = ("epochs", "max_steps", "devices", "early_stopping", "limit_examples", "seed", "image_size")


class StoppedBySignal(BaseException):
    """A signal came while nothing was being trained; no `except Exception` on the way may take it for an error."""


class Signals:
    """Between dispatches training asks `stop`; elsewhere a signal raises. A second Ctrl-C ends the program at once."""

    def __init__(self) -> None:
        self.received, self.training = 0, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: Any) -> None:
        if self.received and number == signal.SIGINT:
            os._exit(130)
        self.received = number
        if not self.training:
            raise StoppedBySignal

    @contextlib.contextmanager
    def while_training(self) -> Iterator[None]:
        """Let `fit` answer a signal at the end of a dispatch; one that came too late for it is raised at the end."""
        self.training = True
        try:
            yield
        finally:
            self.training = False
        if self.received:
            raise StoppedBySignal

    def ignore(self) -> None:
        """From here on only report; a second Ctrl-C still ends the program."""
        self.training = True

    def stop(self) -> bool:
        """Whether a signal has come."""
        return bool(self.received)


def run(
    main: Callable[[Any, Signals, list[pathlib.Path]], Any], config_type: type, name: str, presets: dict[str, dict[str, Any]] | None = None
) -> None:
    """Parse flags, run `main`, and turn what went wrong into one line and an exit code (see README)."""
    log.handlers[:], log.propagate = [logging.StreamHandler()], False
    log.setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs a traceback for what we say in a line
    sys.unraisablehook = _without_late_callbacks
    atexit.register(gc.freeze)  # else half a second goes, at exit, to looking for garbage in what goes anyway
    signals, code = Signals(), 0
    folder: list[pathlib.Path] = []
    try:
        config = _parse(config_type, name, presets or {})
        if config.reuse_memory:
            process.reuse_memory()
        process.keep_programs(config.compilation_cache)
        main(config, signals, folder)
        signals.ignore()
    except (jc.InputError, jc.DivergedError, OSError, jax.errors.JaxRuntimeError) as error:
        signals.ignore()
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        code = 1 if folder else 2
        print(f"{name}: stopped: {line}; {_kept(folder[0])}" if folder else f"{name}: {line}", file=sys.stderr)
    except (jc.StoppedError, StoppedBySignal) as error:
        signals.ignore()
        code = 143 if signals.received == signal.SIGTERM else 130
        for path in folder:
            where = f"after step {error.step}" if isinstance(error, jc.StoppedError) else "outside training"
            resume = f"python -m experiments.{name} --resume --workdir {shlex.quote(str(path))}"
            print(f"stopped {where}; {_kept(path)}; continue with: {resume}", file=sys.stderr)
    if code:
        sys.exit(code)


def _without_late_callbacks(event: Any) -> None:
    """After a save that failed, TensorStore's remaining threads report a loop that is closed by then; the failure itself was said."""
    if str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)


def _kept(folder: pathlib.Path) -> str:
    steps = sorted(int(p.name) for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdigit())
    return f"checkpoints are kept in {folder}, the newest of step {steps[-1]}" if steps else f"no checkpoint was written yet in {folder}"


def _parse(config_type: type, name: str, presets: dict[str, dict[str, Any]]) -> Any:
    """Flags over the defaults; a preset's flag (`--tutorial`), or the run to resume, changes what the defaults are."""
    argv = sys.argv[1:]
    chosen: dict[str, Any] = {}
    for flag, values in presets.items():
        chosen |= values if f"--{flag}" in argv else {}
    parse = lambda default: tyro.cli(config_type, prog=f"python -m experiments.{name}", default=default, args=argv)  # noqa: E731
    config = parse(config_type(**{"workdir": f"checkpoints/{name}"} | chosen))
    check(config)
    if not config.resume:
        return config
    folder = find_unfinished(pathlib.Path(config.workdir))
    saved = runs.read_config(folder)
    if saved["experiment"] != name:
        raise jc.InputError(f"{folder}: a run of experiments.{saved['experiment']}, not of {name}")
    known = {f.name for f in dataclasses.fields(config_type)}
    before = config_type(**{k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items() if k in known})
    config = parse(dataclasses.replace(before, resume=True, workdir=str(folder)))
    for field in sorted(known - MAY_CHANGE):
        old, new = getattr(before, field), getattr(config, field)
        if old != new:
            flag = field.replace("_", "-")
            raise jc.InputError(f"--resume: --{flag} was {old} and is now {new}; resume without it, or start a new run")
    return dataclasses.replace(config, workdir=str(folder))


def check(config: Settings) -> None:
    """Refuse numbers that no run can use, before anything is started."""
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), "--" + field.name.replace("_", "-")
        if field.name in POSITIVE and value < 1:
            raise jc.InputError(f"{flag} {value}: must be at least 1")
        if field.name in NOT_NEGATIVE and value is not None and value < 0:
            raise jc.InputError(f"{flag} {value}: must be at least 0")
    if not 0 < config.validation_fraction < 1:
        raise jc.InputError(f"--validation-fraction {config.validation_fraction}: must be above 0 and below 1")
    one_of("--strategy", config.strategy, STRATEGIES)
    one_of("--precision", config.precision, PRECISIONS)
    if (config.evaluate or config.predict) and not config.checkpoint:
        raise jc.InputError("--evaluate and --predict need --checkpoint RUN, a run's folder")


def one_of(flag: str, value: str, known: Iterable[str]) -> str:
    """Return the value, or name the nearest of those that are known."""
    if value not in known:
        near = difflib.get_close_matches(value, known, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"such as {sorted(known)[0]!r}"
        raise jc.InputError(f"{flag} {value!r}: unknown; {hint}")
    return value


def find_unfinished(root: pathlib.Path) -> pathlib.Path:
    """Return the run to resume: the folder itself, or the newest one in it that has no summary."""
    if (root / "config.json").exists():
        if (root / "summary.json").exists():
            raise jc.InputError(f"--resume: {root} is finished (it has summary.json)")
        return root
    found = sorted(p.parent for p in root.glob("*/config.json") if not (p.parent / "summary.json").exists())
    if not found:
        raise jc.InputError(f"--resume: no unfinished run under {root}")
    return found[-1]
