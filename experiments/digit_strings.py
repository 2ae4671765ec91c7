"""Reads strings of digits, such as amounts on cheques: `python -m experiments.digit_strings FOLDER_OF_MNIST`.

Data: strings of 1 to 8 digits that are composed from real digits of MNIST (its folder of IDX files is given), with
varying scale, distance, baseline and slight overlap, on an image of 32x192 pixels. Each epoch draws new training
strings from most of the digits in the training file; the others make the validation strings. The test has 2,000 strings
of exactly five digits from the test file, with a seed of their own. The network has no recurrence, only
convolutions over the columns, and is trained with connectionist temporal classification (Graves et al., 2006,
doi:10.1145/1143844.1143891). Measured are the share of strings that are read without an error, with an interval, and
the character error rate, with the best symbol of each column and with a beam search.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, settings, strings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import scalars
from jaxcnn.data.drawing import png
from jaxcnn.data.folder import read_image
from jaxcnn.runs.signals import Signals

LONGEST, TEST_SEED, SHOWN = 8, 20261129, 8
EXACTLY = 5  # digits of each string of the test


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a reader of strings of digits."""

    data: tyro.conf.Positional[str] = ""
    """A folder of four IDX files, such as MNIST's."""
    strings: int = 20_000
    """Strings in one epoch; new ones are drawn in each epoch."""
    test_strings: int = 2000
    """Strings to validate on, and to test on."""
    epochs: int = 15
    """Passes over --strings."""
    batch_size: int = 64
    """Rows in one update, over all devices."""
    learning_rate: float = 4e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    beams: int = 10
    """Beams of the search that is measured beside the best symbol of each column."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 2, "strings": 64, "test_strings": 16, "batch_size": 8, "ema": 0.0}}


def load(config: Config) -> jc.data.Splits:
    """Return strings to train on, to validate on and to test on."""
    if not config.data:
        raise jc.InputError("DATA: give a folder of IDX files, as in python -m experiments.digit_strings FOLDER")
    if min(config.strings, config.test_strings) < 1:
        raise jc.InputError(f"--strings {config.strings}, --test-strings {config.test_strings}: must be at least 1")
    digits = jc.data.idx(files.expanded(config.data), validation_fraction=config.validation_fraction)
    if len(digits.train.classes) != 10 or digits.train.example()["image"].shape[1:] != (28, 28, 1):
        raise jc.InputError(f"{visible(config.data)}: must have ten classes of 28x28 gray pixels, as MNIST does")
    train, valid, test = (strings.Digits(part.arrays["image"][..., 0], part.label) for part in digits)
    return jc.data.Splits(
        strings.rows(train, config.strings, (1, LONGEST), 0, fresh=True),
        strings.rows(valid, config.test_strings, (1, LONGEST), 1),
        strings.rows(test, config.test_strings, (EXACTLY, EXACTLY), TEST_SEED),
    )


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    rate, decay, data = jc.optim.check_rate(config.learning_rate), config.weight_decay, load(config)
    build = {
        "model": common.model("text_line", config, num_classes=10),
        "task": {"name": "sequence", "options": {"mean": 0.1, "std": 0.3}},
        "ema": config.ema,
        "image": {"shape": [strings.HEIGHT, strings.WIDTH, 1], "dtype": "uint8"},
    }

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(
        runs.build(build)[1], data, optimizer, ema=config.ema, build=build, dataset="digit_strings", unit="strings"
    )


def measure(config: Config, loaded: runs.TrainedRun, rows: Any) -> dict[str, Any]:
    """Measure the reading of the best symbol in each column, and that of a beam search."""
    beam = {"beam_exact_match": jc.metrics.exact_match(config.beams)}
    beam["beam_character_error_rate"] = jc.metrics.character_error_rate(config.beams)
    task = loaded.task._replace(metrics={**loaded.task.metrics, **beam})
    values = scalars(runs.evaluate(loaded._replace(task=task), rows, batch_size=config.eval_batch_size))
    low, high = jc.metrics.wilson_interval(values["exact_match"], values["count"])
    return values | {"exact_match_interval": [low, high], "digits": EXACTLY, "beams": config.beams}


def show(config: Config, loaded: runs.TrainedRun) -> list[dict[str, Any]]:
    """Print the string in each image of `--predict` as a line of JSON, with its probability."""
    found, height, width = [], *loaded.config["build"]["image"]["shape"][:2]

    @jax.jit
    def read(variables, image):
        return jc.tasks.decoded(loaded.task.predict(variables, {"image": image}), config.beams)

    for path in config.predict:
        image, inverted = strings.fitted(read_image(path, 1), height, width)
        symbols, score = jax.tree.map(np.asarray, read(loaded.variables, image[None]))
        text = "".join(str(x) for x in symbols[0] if x >= 0)
        found.append({"image": path, "string": text, "probability": float(np.exp(score[0])), "inverted": inverted})
        print(files.to_json(found[-1]), flush=True)
    return found


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say; a new run has some strings of the test in `RUN/strings/`."""
    if config.evaluate or config.predict:
        loaded = jc.load_run(config.checkpoint)
        if loaded.config["experiment"] != "digit_strings":
            raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {loaded.config['experiment']}")
        if config.predict:
            return show(config, loaded)
        saved = loaded.config["settings"]
        rows = load(dataclasses.replace(config, data=config.data or saved["data"])).test
    else:
        made = plan(config)
        if not common.train("digit_strings", config, made, signals, opened):  # another process has the results
            return None
        rows, loaded = made.data.test, jc.load_run(opened[-1])
    values = measure(config, loaded, rows)
    print(files.to_json(values), flush=True)
    if config.evaluate:
        return values
    folder = opened[-1]
    files.write_json(folder / "digit_strings.json", values)
    (folder / "strings").mkdir(exist_ok=True)
    some = rows.read(np.arange(min(SHOWN, rows.size)))
    for image, symbols in zip(some["image"], some["symbols"], strict=True):
        name = "".join(str(x) for x in symbols if x >= 0)
        files.write_bytes(folder / "strings" / f"{name}.png", png(image))
    return values


if __name__ == "__main__":
    cli.run(main, Config, "digit_strings", PRESETS)
