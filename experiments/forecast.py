"""Forecasts the carbon dioxide of the air by weeks: `python -m experiments.forecast statsmodels-0.15.0-cp311-*.whl`.

Data: weekly means at Mauna Loa from March 1958 to December 2001 (Keeling and Whorf, 2004), 59 of 2284 missing, which
the Python package statsmodels has inside: `pip download --no-deps statsmodels==0.15.0`. The last fifth of the weeks is
for the test, the tenth before it for validation. The network is a TCN (Bai et al., 2018, arXiv:1803.01271), which sees
two years and forecasts three quantiles of each week of the next. Every week of the test part is an origin, without
training again. It must be better than the seasonal naive forecast, the value one year before.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, pixels, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.data.forecast import cuts
from jaxcnn.runs.signals import Signals

PERIOD = 52  # weeks of a season
QUANTILES = (0.1, 0.5, 0.9)
FILE = re.compile(r"(?:.*/)?statsmodels/datasets/co2/co2\.csv")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that forecasts the carbon dioxide of the air."""

    data: tyro.conf.Positional[str] = ""
    """The wheel of statsmodels, or a folder with co2.csv."""
    unpacked: str = ""
    """Folder into which the wheel is unpacked; by default checkpoints/data/forecast."""
    context: int = 104
    """Weeks that a forecast sees."""
    horizon: int = 52
    """Weeks to forecast."""
    widths: tuple[int, ...] = (32, 32, 32, 32, 32)
    """Channels of each block of the TCN."""
    kernel_size: int = 5
    """Steps of its kernels."""
    epochs: int = 40
    """Passes over the training windows."""
    batch_size: int = 64
    """Rows in one update, over all devices."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 20
    """Number of validations in a run."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "batch_size": 4, "limit_examples": 8, "widths": (4, 4), "context": 60, "ema": 0.0,
    }
}  # fmt: skip


def place(name: str) -> str | None:
    """Return where the file of the wheel goes."""
    return "co2.csv" if FILE.fullmatch(name) else None


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.forecast`."""
    path = archives.folder_of("forecast", config, place) / "co2.csv"
    return {"path": str(path), "context": config.context, "horizon": config.horizon, "period": PERIOD}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    rate, decay, read = jc.optim.check_rate(config.learning_rate), config.weight_decay, source(config)
    splits = jc.data.forecast(**read)
    series = splits.train.example()["series"]
    options = {"widths": list(config.widths), "kernel_size": config.kernel_size}
    build = {
        "model": common.model("tcn", config, horizon=config.horizon, quantiles=len(QUANTILES), **options),
        "task": {"name": "forecasting", "options": {"quantiles": list(QUANTILES), "mase": True}},
        "ema": config.ema,
        "inputs": {"series": {"shape": list(series.shape[1:]), "dtype": str(series.dtype)}},
    }

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, ema=config.ema, build=build, dataset="co2", unit="windows",
        source=runs.source("forecast", read), validations=config.validations,
    )  # fmt: skip


def forecasts(loaded: runs.TrainedRun, windows: np.ndarray) -> np.ndarray:
    """Return the quantiles `[N, horizon, Q]` after windows `[N, context, C]`."""
    rows = jc.data.Resident({"series": windows.astype(np.float32)})
    return np.asarray(jc.collect(loaded.task.predict, loaded.variables, rows)[0])


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, Any]:
    """Measure a network and the seasonal naive forecast from every origin of the test part."""
    del data
    read = source(config)
    values = jc.data.read_times(read["path"]).values
    start, middle = cuts(len(values), 0.1, 0.2)[1], QUANTILES.index(0.5)

    def predict(windows):
        return forecasts(loaded, windows)[..., middle]

    return jc.metrics.rolling_origin(
        predict, values, start=start, context=config.context, horizon=config.horizon, period=PERIOD
    )


def show(config: Config, loaded: runs.TrainedRun) -> None:
    """Print the forecasts after the end of the tables of `--predict`, a JSON line for each table."""
    for path in config.predict:
        values = jc.data.read_times(path).values
        if len(values) < config.context:
            raise jc.InputError(f"{visible(path)}: {len(values)} rows; the network sees {config.context}")
        found = forecasts(loaded, values[None, -config.context :])[0]
        columns = {f"{q:g}": found[:, k].tolist() for k, q in enumerate(QUANTILES)}
        print(files.to_json({"file": path, "quantiles": columns}), flush=True)


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.checkpoint:
        saved = runs.read_config(config.checkpoint)["settings"]
        sizes = {name: saved[name] for name in ("context", "horizon") if name in saved}
        config = dataclasses.replace(config, **sizes)
    return pixels.main("forecast", config, signals, opened, plan, measure, show)


if __name__ == "__main__":
    cli.run(main, Config, "forecast", PRESETS)
