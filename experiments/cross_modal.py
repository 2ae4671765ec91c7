"""Begins a network of spectrograms with one of photos: `python -m experiments.cross_modal CIFAR10 fsdd_recordings.zip`.

A small convolutional network learns the photos of CIFAR-10 (or `--weights RUN` is one that has learned others). Its
weights, except the last layer, then begin a network that recognises the digits of the Free Spoken Digit Dataset by
their mel spectrograms, from 5, 10, 25 and 50 recordings per digit, as networks of photos have been used for sounds
(Palanisamy et al., 2020, arXiv:2007.11154). Each point is measured on the official test recordings (0 to 4 of each
speaker and digit), and three ways are compared over the same seeds, which draw the recordings: random initial weights,
all but the last layer frozen, and fine-tuned. What pretraining gains is the mean of the paired differences.

A spectrogram is an image of 40 bands by 64 frames, of one second, with mean 0 and variance 1, in three equal channels.
Every point is a run of `experiments.transfer`; `--resume` trains only the unfinished points.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, folders, settings, spoken_digits, transfer, transfer_curve
from experiments.studies.core import spread
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.runs.plan import unchanged
from jaxcnn.runs.signals import Signals

HOP, MIDDLE, SPREAD = 125, 128, 48  # samples; the pixel of value 0, and pixels per deviation
SHIFT = 4  # pixels that training spectrograms are moved by, in time and in frequency


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Compare random initial weights of a network of spectrograms with those of a network of photos."""

    data: tyro.conf.Positional[str] = ""
    """The archive of CIFAR-10 as images, or a folder with train/<class>/* and test/<class>/*; not read with
    --weights."""
    sounds: tyro.conf.Positional[str] = ""
    """The archive of recordings, or a folder with train/<digit>, valid/<digit> and test/<digit>."""
    unpacked: str = ""
    """Folder into which archives are unpacked; by default checkpoints/data."""
    weights: str = ""
    """Run to start from; by default a network is pretrained on the photos."""
    model: str = ""
    """Network to pretrain: cnn (the default) or another of jaxcnn.models.MODELS."""
    photos: int = 5000
    """Most photos of each class to pretrain on, of those in the archive."""
    per_class: tuple[int, ...] = (5, 10, 25, 50)
    """Numbers of labelled recordings per digit, validation included."""
    seeds: int = 5
    """Number of seeds; a seed draws the recordings, initial parameters, order and augmentation."""
    epochs: int = 8
    """Epochs of pretraining; experiments.transfer chooses those of the other runs."""
    batch_size: int = 32
    """Rows in one update; pretraining uses four times this number."""


PRESETS = {
    "smoke": {"epochs": 1, "max_steps": 2, "seeds": 1, "per_class": (4,), "batch_size": 8, "photos": 8}
}  # fmt: skip


def photos(config: Config) -> str:
    """Return the folder of photos, unpacked where an archive is given."""

    def place(name: str) -> str | None:
        found = archives.photo(name)
        return found.place if found and int(found.number) < config.photos else None

    if not 1 <= config.photos <= 5000:
        raise jc.InputError(f"--photos {config.photos}: must be 1 to 5000")
    top = pathlib.Path(config.unpacked or "checkpoints/data") / f"cifar10-{config.photos}"
    return str(archives.folder_of("cross_modal", dataclasses.replace(config, unpacked=str(top)), place))


def spectrograms(config: Config) -> jc.data.Splits:
    """Return the recordings of each part as images, uint8 `[N, 40, 64, 3]`, the lowest band at the bottom."""
    if not config.sounds:
        raise jc.InputError("SOUNDS: give the archive, as in python -m experiments.cross_modal PHOTOS SOUNDS")
    top = str(pathlib.Path(config.unpacked or "checkpoints/data") / "spoken_digits")
    splits = jc.data.sounds(
        **spoken_digits.source(spoken_digits.Config(data=config.sounds, unpacked=top)), resident_bytes=2**40
    )
    model = jc.models.sound_cnn(rate=spoken_digits.RATE, hop=HOP)

    @jax.jit
    def made(audio, length):
        image, _ = model.apply({}, audio, length, method="spectrogram_of")  # [B, frames, bands, 1]
        return image[:, :64, ::-1].swapaxes(1, 2)

    def images(part: jc.data.Resident) -> jc.data.Resident:
        audio, length, found = part.arrays["audio"], part.arrays["length"], []
        for i in range(0, part.size, 100):
            one = np.asarray(made(audio[i : i + 100], length[i : i + 100]))
            found.append((MIDDLE + SPREAD * one).clip(0, 255).round().astype(np.uint8))
        image = np.repeat(np.concatenate(found), 3, -1)
        return jc.data.Resident({"image": image, "label": part.label}, part.classes, names=part.names)

    return jc.data.Splits(*map(images, splits))


def change(plan: runs.Plan) -> runs.Plan:
    """Move training spectrograms a little instead of mirroring them, and forget the folder of photos."""

    def wrap(step):
        return jc.augmented(step, jc.augment.shift(SHIFT))

    cached = plan.prepare is not unchanged  # features of a frozen network, which are computed once
    return dataclasses.replace(
        plan, wrap=plan.wrap if cached else wrap, dataset="fsdd_spectrograms", source=None, unit="recordings"
    )


def gains(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the differences to random initial weights, paired by seed, for each way and number of recordings."""
    found = {(p["train"], p["per_class"], p["seed"]): p["accuracy"] for p in points}
    out = []
    for mode in ("head", "all"):
        for n in dict.fromkeys(p["per_class"] for p in points):
            seeds = [seed for name, m, seed in found if (name, m) == (mode, n)]
            gap = [found[mode, n, seed] - found["scratch", n, seed] for seed in seeds]
            out.append({"train": mode, "per_class": n, **spread(gap), "above": sum(x > 0 for x in gap)})
    return out


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> dict[str, Any]:
    """Pretrain, train the unfinished points, and write the figures and their curve to the folder."""
    transfer_curve.check(config)
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(settings.Settings)}
    base = transfer.Config(**shared | {"epochs": None, "resume": False, "augment": True, "folder": "spectrograms"})
    splits = spectrograms(config)
    first = dataclasses.replace(base, model=config.model or ("" if config.weights else "cnn"), weights=config.weights)
    transfer.few(splits, dataclasses.replace(base, per_class=max(config.per_class)))  # refuse it before pretraining
    folder = folders.open_folder(
        "cross_modal", config, transfer.plan(first, splits), splits, common.data_digest(splits.train)
    )
    opened.append(folder)
    weights = config.weights
    if not weights:
        begin = dataclasses.replace(
            first, folder=photos(config), epochs=config.epochs, batch_size=4 * config.batch_size,
            learning_rate=4e-3,
        )  # fmt: skip
        weights = transfer_curve.trained(begin, None, folder / "pretrained", signals)["checkpoint"]
    base = dataclasses.replace(base, weights=weights)
    points = transfer_curve.measured(config, base, splits, folder, signals, change)
    found = transfer_curve.report(folder, points, "recordings") | {"gains": gains(points)}
    for row in found["gains"]:
        name = transfer_curve.MODES[row["train"]][0]
        line = f"{name}, {row['per_class']} per class: {row['mean']:+.4f} +- {row['deviation']:.4f} to random weights"
        print(f"{line}, above in {row['above']} of {config.seeds}", flush=True)
    files.write_json(folder / "summary.json", found)
    return found


if __name__ == "__main__":
    cli.run(main, Config, "cross_modal", PRESETS)
