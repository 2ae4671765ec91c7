"""A program in 8-bit integers: calibrated on rows, and checked against the float32 program and its own simulation."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError, check_whole
from jaxcnn.deploy import agreement, onnx
from jaxcnn.deploy.program import Program, why
from jaxcnn.methods import quantise
from jaxcnn.runs import read_data
from jaxcnn.runs.load import TrainedRun

FORMATS = ("onnx",)
ROWS = 512  # training rows for the calibration
TOLERANCE = 0.05
SIMULATED = 0.01  # what the file may differ from the simulation


def quantised(made: Program, rows: Mapping[str, Any]) -> Program:
    """Return a program as it computes in 8-bit integers; JAX simulates it, and an ONNX file of it has integers.

    Args:
        made: a program in float32. If its variables have grids, as after `methods.quantise.calibrate`, these stay.
        rows: arrays `[N, ...]` by name on which the grids are chosen: training rows.

    Raises:
        InputError: the rows lack an input, or see `methods.quantise.calibrate`.

    """
    variables, about = made.variables, {**made.about, "precision": "int8", "session_options": dict([onnx.EXACT])}
    if quantise.GRIDS not in variables:
        if lacking := [name for name in made.inputs if name not in rows]:
            raise InputError(f"calibration rows: have no {lacking[0]!r}; the program reads {', '.join(made.inputs)}")
        rows = {name: np.asarray(rows[name]) for name in made.inputs}
        variables = quantise.calibrate(made.function, variables, rows)
        about["calibration_rows"] = len(next(iter(rows.values())))
    return made._replace(function=quantise.simulated(made.function), variables=variables, about=about)


def training_rows(
    loaded: TrainedRun, count: int = ROWS, seed: int = 0, place: str | None = None
) -> dict[str, np.ndarray]:
    """Return some training rows of a run, without augmentation.

    Args:
        loaded: result of `load_run`.
        count: how many at most, at least 1.
        seed: draws them.
        place: where the run's data are now, as in `read_data`; None for where they were.

    Raises:
        InputError: the run's data cannot be read again.

    """
    try:
        train = read_data(loaded.config, place).train
    except (InputError, OSError) as error:
        reason = why(error).split(";")[0]
        raise InputError(
            f"calibration: the run's training rows cannot be read ({reason}); say where they are with data=PLACE"
        ) from error
    return drawn(train, count, seed)


def drawn(train: Any, count: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Return some rows of a data set, without augmentation; arguments as for `training_rows`."""
    check_whole("seed", seed)
    data = train.take(np.sort(np.random.default_rng(seed).permutation(train.size)[:count]))
    read = next(iter(data.once(data.size))).at(0)
    return {name: np.asarray(x)[: data.size] for name, x in read.items() if name != "row_mask"}


def check(
    ours: agreement.Outputs, simulated: agreement.Outputs, theirs: agreement.Outputs, label: Any, tolerance: float,
    multilabel: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Compare an exported program in integers with the float32 program and with the simulation.

    Args:
        ours: outputs of the float32 program.
        simulated: those of the simulation for the same rows.
        theirs: those of the exported program.
        label: classes of the rows, `[N]`; None if there are none.
        tolerance: largest share of rows (or of answers about labels) that differ from the float32 program; of numbers,
            the largest root mean square difference, relative to the spread between rows; of other outputs, the largest
            difference, relative to the largest output.
        multilabel: see `agreement.compare`.

    Raises:
        InputError: the exported program differs by more, or it differs from the simulation.

    """
    found, near = (agreement.compare(one, theirs, multilabel) for one in (ours, simulated))
    if numbers := [agreement.deviation(ours[name], theirs[name]) for name in agreement.NUMBERS if name in ours]:
        found["deviation"] = max(numbers)
    for limit, name, one in ((SIMULATED, "its simulation", near), (tolerance, "float32", found)):
        what = next(name for name in ("agreement", "deviation", "largest_difference") if name in one)
        gap = 1 - one[what] if what == "agreement" else one[what]
        if not gap <= limit + 1e-9:
            what = "share of other answers" if what == "agreement" else what.replace("_", " ")
            fix = "give more calibration rows, train with methods.quantise.quantised, or raise the tolerance"
            raise InputError(f"the int8 program differs from {name} ({what} {gap:.3g}, {limit:g} at most): {fix}")
    found["simulation"] = near
    if label is not None and "logits" in ours and np.ndim(label) == 1 and ours["logits"].ndim == 2:
        for name, one in (("float32_accuracy", ours), ("accuracy", theirs)):
            found[name] = float((agreement.classes(one["logits"]).reshape(len(label), -1)[:, 0] == label).mean())
    return {**found, "tolerance": tolerance}
