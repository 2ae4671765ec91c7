"""Learns vectors of faces and recognises people by them: `python -m experiments.faces orl_faces.zip`.

Data: ORL, 40 people with 10 images of 92x112 pixels each, made at one laboratory (Samaria and Harter, 1994). The
network learns with the loss of ArcFace (Deng et al., 2018, arXiv:1801.07698) from random weights. With `--protocol
images`, half of each person's images are learned and enrolled, and the others are identified; Lawrence et al. (1997,
doi:10.1109/72.554195) have an error of 3.8 %. With `--protocol people`, a quarter of the people is never seen in
training, and all pairs of their images are compared: the equal error rate. `--split` draws the halves or the people.
With `--tune`, parts of the training rows take the place of the test rows, which are then not measured.
README.md says what such a network must not be used for.
"""

import dataclasses
import pathlib
import re
from typing import Any

import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, settings
from experiments.pixels import load as load_checkpoint
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

FILE = re.compile(r"(?:.*/)?(s\d{1,3}/\d{1,3}\.pgm)")
PROTOCOLS = ("images", "people")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train or evaluate a network that recognises people by their faces."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder with a folder of images for each person."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/faces."""
    protocol: str = "images"
    """images (identify other images of the same people) or people (compare images of other people)."""
    split: int = 0
    """Seed of the split."""
    tune: bool = False
    """Measure on a part of the training rows, to choose settings."""
    height: int = 56
    """Height that images are resized to; the width follows from their shape, 46 to 56."""
    model: str = "cnn"
    """cnn, resnet20 or another of jaxcnn.models.MODELS."""
    vector: int = 128
    """Length of the vectors."""
    loss: str = "arcface"
    """arcface, or contrastive, which compares the images of a batch (Khosla et al., 2020, arXiv:2004.11362)."""
    scale: float = 30.0
    """Factor of the cosines in the loss of ArcFace."""
    margin: float = 0.3
    """Margin of the angle in the loss of ArcFace, in radians."""
    dropout: float = 0.0
    """Share of units dropped before the last layer, in [0, 1)."""
    strength: float = 1.0
    """Factor of the augmentation: rotation, scale, shift, brightness and contrast."""
    epochs: int = 150
    """Passes over the training rows."""
    batch_size: int = 40
    """Rows in one update, over all devices."""
    learning_rate: float = 3e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    validations: int = 3
    """Number of validations in a run."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 2, "batch_size": 8, "height": 34, "vector": 8, "validations": 1}}


def place(name: str) -> str | None:
    """Return where a file of the archive goes: `s1/1.pgm` and so on."""
    found = FILE.fullmatch(name)
    return found[1] if found else None


def load(config: Config) -> jc.data.Resident:
    """Read all images."""
    path, size = archives.folder_of("faces", config, place), (config.height, round(config.height * 46 / 56))
    rows = jc.data.folder(path, size=size, channels=1, validation_fraction=0, test_fraction=0).train
    rows = jc.data.Resident({name: np.asarray(x) for name, x in rows.arrays.items()}, rows.classes, names=rows.names)
    counts = np.bincount(rows.label, minlength=len(rows.classes))
    if counts.min() < 4:
        name = rows.classes[int(counts.argmin())]
        raise jc.InputError(f"{name}: has {counts.min()} images; each person needs at least 4, or leave the folder out")
    return rows


def split(config: Config, rows: jc.data.Resident) -> jc.data.Splits:
    """Split images or people; with `--tune`, valid and test are a part of the training rows, otherwise all of them."""
    rng, label = np.random.default_rng([1, config.split]), rows.label
    if config.protocol == "images":
        order = [rng.permutation(np.flatnonzero(label == k)) for k in range(len(rows.classes))]
        train, test = (
            [k for one in order for k in one[: len(one) // 2]],
            [k for one in order for k in one[len(one) // 2 :]],
        )
        held = [one[0] for one in order]
    else:
        people = rng.permutation(len(rows.classes))
        few = max(len(people) // 4, 2)
        if len(people) < 3 * few:
            raise jc.InputError(f"{len(people)} people: --protocol people needs at least 6")
        test, held = (np.flatnonzero(np.isin(label, part)) for part in (people[-few:], people[:few]))
        train = np.setdiff1d(np.arange(len(label)), test)
    if config.tune:
        train, test = np.setdiff1d(train, held), held
    train = np.sort(train)
    return jc.data.Splits(
        *(rows.take(np.asarray(part)) for part in (train, test if config.tune else train, np.sort(test)))
    )


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    if not config.tune:  # nothing is held out
        settings.unused(config, "early_stopping", instead="give --epochs, or choose with --tune")
    settings.one_of("--protocol", config.protocol, PROTOCOLS)
    if not 32 <= config.height <= 1024 or config.vector < 2:
        raise jc.InputError(f"--height {config.height}, --vector {config.vector}: must be 32 to 1024, and at least 2")
    settings.one_of("--loss", config.loss, ("arcface", "contrastive"))
    if not 0 <= config.strength <= 4:
        raise jc.InputError(f"--strength {config.strength}: must be in 0..4")
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    jc.layers.check_dropout(config.dropout)
    splits = split(config, load(config))
    image = splits.train.example()["image"]
    options = common.pixel_statistics(splits.train) | {"classes": len(splits.train.classes), "loss": config.loss}
    if config.loss == "arcface":
        options |= {"scale": config.scale, "margin": config.margin}
    dropped = {"dropout": config.dropout} if config.dropout else {}
    build = {
        "model": common.model(config.model, config, num_classes=config.vector, **dropped),
        "task": {"name": "embedding", "options": options},
        "image": {"shape": list(image.shape[1:]), "dtype": str(image.dtype)},
    }
    s = config.strength
    change = jc.augment.compose(
        jc.augment.flip, jc.augment.affine(degrees=8 * s, scale=0.12 * s, shear=0.05 * s, shift=0.05 * s),
        jc.augment.color_jitter(0.25 * s, 0.25 * s),
    )  # fmt: skip

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step):
        return jc.augmented(step, change)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, build=build, dataset="orl_faces", best=False,
        validations=config.validations,
    )  # fmt: skip


def vectors_of(loaded: runs.TrainedRun, rows: jc.data.Resident) -> np.ndarray:
    """Return the sum of the vectors of each image and of its mirror image, whose direction counts."""
    image = np.asarray(rows.arrays["image"])
    return sum(runs.predict(loaded, {"image": x}) for x in (image, image[:, :, ::-1]))


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Splits) -> dict[str, float]:
    """Measure a network on the test rows: identification by the learned images, or verification of pairs."""
    vectors, label = vectors_of(loaded, data.test), data.test.label
    if config.protocol == "images":
        known = vectors_of(loaded, data.train)
        found = jc.metrics.identification(known, data.train.label, vectors, label)
        return {"error": 1 - found["rank_1"], **found}
    found = jc.metrics.verification(*jc.metrics.pair_scores(vectors, label))
    tar = {f"tar_at_{rate:g}": share for rate, (share, _) in found.tar.items()}
    return {"eer": found.eer, "auc": found.auc, **tar, **jc.metrics.retrieval(vectors, label, ranks=(1,))}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate or train, as the flags say; the scores of a new run go into `RUN/faces.json`."""
    if config.predict:
        raise jc.InputError("--predict: use jaxcnn search RUN IMAGE --index FILE, which names the most similar images")
    if config.evaluate:
        folder = pathlib.Path(config.checkpoint)
        config, loaded = load_checkpoint("faces", config)
        saved = {name: loaded.config["settings"][name] for name in ("protocol", "split", "tune", "height")}
        config = dataclasses.replace(config, **saved)
        data = split(config, load(config))
    else:
        made = plan(config)
        if not common.train("faces", config, made, signals, opened):  # another process has the results
            return None
        folder, data = opened[-1], made.data
        loaded = jc.load_run(folder)
    values = measure(config, loaded, data)
    if not config.evaluate:
        files.write_json(folder / "faces.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "faces", PRESETS)
