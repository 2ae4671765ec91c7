"""What studies share: a run for every point, trained once however often the study is resumed, and means over seeds."""

import contextlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def trained(folder: pathlib.Path, train: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of the run in a folder, which `train(workdir)` makes if there is none; what it prints goes to a file."""
    for summary in folder.glob("*/summary.json"):
        return json.loads(summary.read_text())
    folder.mkdir(exist_ok=True)
    with open(folder / "log.txt", "w") as screen, contextlib.redirect_stdout(screen):
        return train(str(folder))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and standard deviation over seeds, of which one has none."""
    return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
