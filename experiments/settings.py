"""The flags of every experiment: the groups of the library, and the flags that only experiments have."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jaxcnn as jc
from jaxcnn.cli import flags
from jaxcnn.cli.flags import MAY_CHANGE, PLACE, PRECISIONS, check_numbers, one_of
from jaxcnn.runs.results import Skipped

__all__ = ["MAY_CHANGE", "PLACE", "PRECISIONS", "Settings", "Skipped", "check", "check_numbers", "one_of"]


@dataclasses.dataclass(frozen=True)
class Settings(flags.Saving, flags.Processes, flags.Machine, flags.Layout, flags.Update, flags.Rows, flags.Length):
    """The flags of every experiment."""

    resume: bool = False
    """Continue the newest unfinished run under --workdir, with its settings."""
    checkpoint: str = ""
    """Folder of a run, for --evaluate and --predict."""
    evaluate: bool = False
    """Print the test metrics of --checkpoint as one JSON line, and do nothing else."""
    predict: tuple[str, ...] = ()
    """Print class and probabilities of these images with the model of --checkpoint, and do nothing else."""
    smoke: bool = False
    """A run of a few seconds: few rows, few steps."""


def unused(config: Settings, *names: str, instead: str, saved: Mapping[str, Any] | None = None) -> None:
    """Refuse flags that an experiment does not read and that were changed.

    Args:
        config: the flags.
        names: of the fields.
        instead: what the message tells the user to do.
        saved: values that the experiment writes into the settings of its runs, which a resumed run has.

    """
    for name in names:
        value = getattr(config, name)
        if value not in (getattr(type(config)(), name), (saved or {}).get(name)):
            raise jc.InputError(f"--{name.replace('_', '-')} {value}: has no effect here; {instead}")


def of_run(config: Settings, saved: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return the flags that decide which rows a run was trained on, and refuse other values.

    Args:
        config: the flags of a measurement.
        saved: the settings of the run.
        names: of the fields.

    """
    for name in names:
        value = getattr(config, name)
        if value not in (getattr(type(config)(), name), saved.get(name)):
            line = f"--{name.replace('_', '-')} {value}: the run was trained with {saved.get(name)}"
            raise jc.InputError(f"{line}, which decides the test rows; leave it out")
    return {name: saved[name] for name in names if name in saved}


def check(config: Settings) -> None:
    """Refuse impossible numbers before anything starts."""
    flags.check(config)
    if (config.evaluate or config.predict) and not config.checkpoint:
        raise jc.InputError("--evaluate and --predict need --checkpoint RUN, a run's folder")
