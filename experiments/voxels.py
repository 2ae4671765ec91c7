"""Tells chairs from monitors in voxels, from few rows: `python -m experiments.voxels FOLDER`.

Data: the folder has `chair.npy.gz` and `monitor.npy.gz`, grids of ModelNet10 (Wu et al., 2014, arXiv:1406.5670), uint8
0 or 1, `[N, 32, 32, 32]` with the vertical last. A half of each class is for the test and 40 rows for validation,
always the same ones; each draw takes 20 training rows per class from the others. A small C3D with batch norms is
trained on them with mirrored, turned and shifted copies, its answers are means over the eight mirrored and turned views
of a row, and it is compared with logistic regression, whose penalty is chosen on the validation rows, and a random
forest (Breiman, 2001) on the same rows. `turned` is the accuracy on test rows that are turned at random about the
vertical; as stored, all chairs face one way and all monitors another.
"""

import dataclasses
import gzip
import io
import itertools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxcnn as jc
from experiments import command
from jaxcnn.augment.core import uniform
from jaxcnn.core import files
from jaxcnn.core.collectives import draw
from jaxcnn.core.text import visible
from jaxcnn.core.types import align, reason

CLASSES = ("chair", "monitor")
VALID = 40  # rows of each class
LIMIT = 2**27  # bytes of an unpacked file
ROWS = 40  # that are predicted at a time
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # the inverse of the strength of the penalty


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare a network of three dimensions with logistic regression and a forest."""

    data: tyro.conf.Positional[str] = ""
    """Folder with chair.npy.gz and monitor.npy.gz."""
    draws: int = 10
    """Number of draws of training rows."""
    per_class: int = 20
    """Training rows of each class in a draw."""
    steps: int = 300
    """Updates of the network in a draw."""
    batch_size: int = 20
    """Rows in one update."""
    learning_rate: float = 2e-3
    """Highest value of the one-cycle schedule of AdamW."""
    widths: tuple[int, ...] = (8, 16, 32)
    """Channels of the stages of the network."""
    hidden: int = 64
    """Units of its layer before the last."""
    trees: int = 300
    """Trees of the forest."""
    turns: bool = True
    """Turn training rows about the vertical by quarters, and average over turns; otherwise only mirror them."""
    measure_test: bool = True
    """Measure on the test rows; otherwise on the validation rows alone, to choose settings."""
    smoke: bool = False
    """A run of a few seconds: one draw of few rows, few steps, a narrow network."""


SMOKE = {"draws": 1, "per_class": 4, "steps": 2, "batch_size": 4, "widths": (2, 2), "hidden": 4, "trees": 10}


def grids(path: pathlib.Path) -> np.ndarray:
    """Read the grids of a class as uint8 0 or 255, `[N, 32, 32, 32, 1]` with the vertical first.

    Raises:
        InputError: the file is not readable, too large, or holds something else.

    """
    try:
        with gzip.open(path) as file:
            unpacked = file.read(LIMIT + 1)
        if len(unpacked) > LIMIT:
            raise jc.InputError(f"{visible(path)}: unpacks to more than {LIMIT:,} bytes; get it again")
        found = np.load(io.BytesIO(unpacked), allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise jc.InputError(f"{visible(path)}: not a readable .npy.gz file ({visible(reason(error))})") from error
    if found.dtype != np.uint8 or found.shape[1:] != (32, 32, 32) or found.max(initial=0) > 1:
        raise jc.InputError(f"{visible(path)}: {found.dtype} of shape {found.shape}; must be uint8 0 or 1, 32 a side")
    return 255 * found.transpose(0, 3, 1, 2)[..., None]


def parts(config: Config) -> list[dict[str, np.ndarray]]:
    """Return for each class the rows of `test`, `valid` and `pool`."""
    if not config.data:
        raise jc.InputError("DATA: give the folder of chair.npy.gz, as in python -m experiments.voxels FOLDER")
    rng, found = np.random.default_rng(0), []
    for name in CLASSES:
        rows = grids(files.expanded(config.data) / f"{name}.npy.gz")
        rows = rows[rng.permutation(len(rows))]
        half = len(rows) // 2
        found.append({"test": rows[:half], "valid": rows[half : half + VALID], "pool": rows[half + VALID :]})
        if not 1 <= config.per_class <= len(found[-1]["pool"]):
            raise jc.InputError(f"--per-class {config.per_class}: must be 1 to {len(found[-1]['pool'])}")
    return found


def joined(classes: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Put the rows of all classes together, with their labels."""
    label = np.repeat(np.arange(len(classes), dtype=np.int32), [len(rows) for rows in classes])
    return {"image": np.concatenate(classes), "label": label}


def views(turns: bool) -> list[Any]:
    """Return what mirrors and turns volumes `[B, D, H, W, C]` about the vertical, `batch -> batch`."""

    def view(swap: bool, high: bool, wide: bool) -> Any:
        def change(batch: Any) -> Any:
            image = batch["image"].swapaxes(2, 3) if swap else batch["image"]
            return {**batch, "image": image[:, :, :: -1 if high else 1, :: -1 if wide else 1]}

        return change

    kinds = itertools.product((False, True), repeat=3) if turns else ((False, False, False), (False, False, True))
    return [view(*kind) for kind in kinds]


def turned_at_random(key: Any, batch: Any) -> Any:
    """Take one of the eight views of each volume `[B, D, H, W, C]`."""
    image, chosen = batch["image"], draw(uniform, key, batch["image"].shape[:1]) * 8
    for i, view in enumerate(views(turns=True)[1:], 1):
        image = jnp.where(align(chosen.astype(int) == i, image), view(batch)["image"], image)
    return {**batch, "image": image}


class Network:
    """Trains the network on a draw; it is compiled once."""

    def __init__(self, config: Config) -> None:
        model = jc.models.cnn3d(len(CLASSES), widths=config.widths, hidden=(config.hidden,))
        self.config, self.task = config, jc.tasks.classification(model, dims=3)
        rate = jc.optim.one_cycle(jc.optim.check_rate(config.learning_rate), steps=config.steps)
        self.tx = jc.optim.adamw(rate, weight_decay=1e-2)
        mirror = jc.augment.flip if not config.turns else turned_at_random
        step = jc.augmented(jc.make_train_step(self.task, self.tx), jc.augment.compose(jc.augment.pad_crop(1), mirror))
        mean = jc.augment.test_time_augmentation(self.task.predict, views(config.turns), over="softmax")
        self.run, self.logits = jc.compile_step(step), jax.jit(mean)

    def fitted(self, rows: dict[str, np.ndarray], seed: int) -> Any:
        """Return a function from volumes to classes."""
        data = jc.data.Resident(rows, CLASSES, seed=seed)
        steps, state = self.config.steps, jc.init_state(self.task, self.tx, data.example(), seed=seed)
        options = {"batch_size": self.config.batch_size, "steps": steps, "every": steps, "log": None}
        state = jc.fit(self.run, state, data, **options).state

        def predict(image: np.ndarray) -> np.ndarray:
            logits = [self.logits(state.variables, {"image": image[i : i + ROWS]}) for i in range(0, len(image), ROWS)]
            return np.concatenate(logits).argmax(-1)

        return predict


def linear(rows: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> Any:
    """Fit logistic regressions, and return the one that is best on the validation rows."""
    from sklearn.linear_model import LogisticRegression

    def flat(image: np.ndarray) -> np.ndarray:
        return image.reshape(len(image), -1) / 255.0

    made = [LogisticRegression(C=c, max_iter=500).fit(flat(rows["image"]), rows["label"]) for c in PENALTIES]
    best = max(made, key=lambda one: one.score(flat(valid["image"]), valid["label"]))
    return lambda image: best.predict(flat(image))


def forest(rows: dict[str, np.ndarray], seed: int, trees: int) -> Any:
    """Fit a random forest."""
    from sklearn.ensemble import RandomForestClassifier

    image, made = rows["image"], RandomForestClassifier(trees, random_state=seed)
    made.fit(image.reshape(len(image), -1), rows["label"])
    return lambda image: made.predict(image.reshape(len(image), -1))


def main(config: Config) -> dict[str, Any]:
    """Measure all three on every draw, and print the draws and their means."""
    config = dataclasses.replace(config, **SMOKE) if config.smoke else config
    if min(config.draws, config.steps, config.batch_size, config.trees) < 1:
        raise jc.InputError("--draws, --steps, --batch-size and --trees: must be at least 1")
    classes = parts(config)
    valid, test = (joined([one[part] for one in classes]) for part in ("valid", "test"))
    measured = test if config.measure_test else valid
    quarters = np.random.default_rng(1).integers(0, 4, len(measured["label"]))
    turned = np.stack([np.rot90(x, k, (1, 2)) for x, k in zip(measured["image"], quarters, strict=True)])
    network, found = Network(config), []
    for seed in range(config.draws):
        rng = np.random.default_rng(seed)
        rows = joined([one["pool"][rng.permutation(len(one["pool"]))[: config.per_class]] for one in classes])
        each = {"network": network.fitted(rows, seed), "linear": linear(rows, valid)}
        each["forest"] = forest(rows, seed, config.trees)
        scores = {
            name + end: float((predict(image) == measured["label"]).mean())
            for end, image in (("", measured["image"]), (" turned", turned))
            for name, predict in each.items()
        }
        found.append(scores)
        print(f"draw {seed}: " + ", ".join(f"{name} {x:.4f}" for name, x in scores.items()), flush=True)
    every = {name: np.array([one[name] for one in found]) for name in found[0]}
    summary: dict[str, Any] = {name: {"mean": x.mean(), "deviation": x.std()} for name, x in every.items()}
    for other in ("linear", "forest"):
        gaps = every["network"] - every[other]
        summary[f"network - {other}"] = {"mean": gaps.mean(), "deviation": gaps.std(), "above": int((gaps > 0).sum())}
    print(files.to_json(summary), flush=True)
    return {"draws": found, **summary}


if __name__ == "__main__":
    command.run(main, Config, "voxels")
