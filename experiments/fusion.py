"""Recognises a digit that is seen and heard: `python -m experiments.fusion FOLDER_OF_MNIST fsdd_recordings.zip`.

Nobody wrote and spoke these digits together: the pairs are made up, of an image of MNIST and a recording of the Free
Spoken Digit Dataset with the same label. The official splits are kept: test pairs have images of MNIST's test file and
recordings 0 to 4 of each speaker and digit, validation pairs a sixth of the training file and recordings 5 to 9, and
training pairs the others; each recording of a test or validation pair occurs in ten pairs, and each image in one.
Training draws a new image for each recording in each epoch.

Because either alone is easy, noise is added to both (`--noise`, `--snr`), and a test or validation pair always has the
same noise. Its strength was chosen on validation pairs, so that either alone is right nine times in ten.

The network has a branch for each input (`models.fusion`), and training leaves either out at random (ModDrop, Neverova
et al., 2014, arXiv:1501.00102), so that the same network is measured with both, with the image alone and with the sound
alone. `--only image` and `--only sound` train a network that never gets the other one.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, settings, spoken_digits
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.runs.signals import Signals
from jaxcnn.runs.single import pixels

INPUTS = {"both": (1, 1), "image": (1, 0), "sound": (0, 1)}
SIDE, REPEATS = 28, 10  # pixels; pairs of each recording in a test
ENTRIES = ("audio", "length", "present")


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that recognises digits by image and sound."""

    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files."""
    sounds: tyro.conf.Positional[str] = ""
    """The archive of recordings, or a folder with train/<digit>, valid/<digit> and test/<digit>."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/spoken_digits."""
    only: str = "both"
    """Inputs that training has: both, image or sound."""
    absent: float = 0.4
    """Chance that a training pair loses its image or its sound, in 0..1."""
    noise: float = 0.8
    """Standard deviation of the noise of the images, whose pixels are in 0..1."""
    snr: float = -5.0
    """Loudness of a recording above its noise, in decibels."""
    widths: tuple[int, ...] = (16, 32, 64)
    """Channels of the stages of either branch."""
    vector: int = 64
    """Numbers that describe an image or a sound."""
    epochs: int = 12
    """Passes over the training recordings."""
    batch_size: int = 64
    """Rows in one update, over all devices."""
    learning_rate: float = 4e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 5e-2
    """Weight decay of kernels; biases and norm scales have none."""
    dropout: float = 0.2
    """Share of units dropped before the last layer, in [0, 1)."""
    ema: float = 0.99
    """Decay of the average of the weights that is validated and tested; 0 uses the weights themselves."""
    validations: int = 4
    """Number of validations in a run."""


PRESETS = {
    "smoke": {
        "epochs": 1, "max_steps": 2, "batch_size": 8, "limit_examples": 16, "widths": (4, 4), "vector": 8, "ema": 0.0,
        "validations": 1,
    }
}  # fmt: skip


class Digits(NamedTuple):
    """Images, uint8 `[N, 28, 28, 1]`, with their digits `[N]`; recordings `[M, T]`, their lengths and digits `[M]`."""

    image: np.ndarray
    seen: np.ndarray
    audio: np.ndarray
    length: np.ndarray
    heard: np.ndarray


def digits(config: Config) -> dict[str, Digits]:
    """Read images and recordings of each part."""
    for name, value, line in (("DATA", config.data, "MNIST's IDX files"), ("SOUNDS", config.sounds, "recordings")):
        if not value:
            raise jc.InputError(f"{name}: give the place of {line}, as in python -m experiments.fusion DATA SOUNDS")
    seen = jc.data.idx(files.expanded(config.data), validation_fraction=1 / 6)
    shape = seen.train.example()["image"].shape[1:]
    if shape != (SIDE, SIDE, 1) or len(seen.train.classes) != 10:
        raise jc.InputError(f"{visible(config.data)}: images of shape {shape}; must be ten digits of (28, 28, 1)")
    place = spoken_digits.Config(data=config.sounds, unpacked=config.unpacked)
    heard = jc.data.sounds(**spoken_digits.source(place), resident_bytes=2**40)
    if not set(heard.train.classes) <= set(seen.train.classes):
        found = ", ".join(map(visible, heard.train.classes))
        raise jc.InputError(f"{visible(config.sounds)}: classes {found}; must be named as the digits of the images")
    known = np.array([seen.train.classes.index(name) for name in heard.train.classes])
    return {
        part: Digits(
            np.asarray(a.arrays["image"]), np.asarray(a.label), *(np.asarray(b.arrays[k]) for k in ENTRIES[:2]),
            known[b.label],
        )
        for part, a, b in zip(("train", "valid", "test"), seen, heard, strict=True)
    }  # fmt: skip


def noisy(image: np.ndarray, audio: np.ndarray, noise: float, snr: float, rng: np.random.Generator) -> tuple:
    """Add noise to an image, uint8 `[H, W, C]`, and to the samples of a sound `[n]`, which stay in -1..1."""
    image = image + 255 * noise * rng.standard_normal(image.shape, np.float32)
    power = np.sqrt(np.mean(np.square(audio))) * 10 ** (-snr / 20)
    audio = audio + power * rng.standard_normal(audio.shape, np.float32)
    return image.clip(0, 255).round().astype(np.uint8), (audio / max(np.abs(audio).max(), 1)).astype(np.float32)


def partners(held: Digits, repeats: int) -> np.ndarray:
    """Return an image for each recording in each repeat, `[repeats, M]`; no image occurs twice.

    Raises:
        InputError: there are too few images of a digit.

    """
    found = np.zeros((repeats, len(held.heard)), np.int64)
    for digit in np.unique(held.heard):
        images, clips = (np.flatnonzero(x == digit) for x in (held.seen, held.heard))
        if len(images) < repeats * len(clips):
            raise jc.InputError(
                f"{len(images)} images of {digit}: fewer than {repeats} for each of {len(clips)} sounds"
            )
        found[:, clips] = (
            np.random.default_rng(int(digit)).permutation(images)[: repeats * len(clips)].reshape(repeats, -1)
        )
    return found


def rows(held: Digits, config: Config, seed: int, repeats: int) -> jc.data.Indexed:
    """Return pairs as rows: `"image"`, `"audio"`, `"length"`, `"present"` and `"label"`.

    Args:
        held: images and recordings of one part.
        config: the flags.
        seed: pairs and noise of a row are a function of it and of the row's number.
        repeats: pairs of each recording; 0 for one, whose image and noise training draws again each time.

    """
    clips, fixed = len(held.heard), partners(held, repeats) if repeats else None
    label = np.tile(held.heard, max(repeats, 1)).astype(np.int32)
    images = {digit: np.flatnonzero(held.seen == digit) for digit in np.unique(held.heard)}
    present = np.array(INPUTS[config.only], np.float32)

    def drawn(index: np.ndarray, seeds: np.ndarray, fresh: bool) -> dict[str, np.ndarray]:
        out = {
            "image": np.zeros((len(index), *held.image.shape[1:]), np.uint8),
            "audio": np.zeros((len(index), held.audio.shape[1]), np.float32),
            "length": held.length[index % clips], "present": np.tile(present, (len(index), 1)), "label": label[index],
        }  # fmt: skip
        for i, (row, one) in enumerate(zip(index, seeds, strict=True)):
            rng, size = np.random.default_rng(one), out["length"][i]
            chosen = rng.choice(images[label[row]]) if fresh or fixed is None else fixed[divmod(row, clips)]
            sound = held.audio[row % clips, :size]
            out["image"][i], out["audio"][i, :size] = noisy(held.image[chosen], sound, config.noise, config.snr, rng)
        return out

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        return drawn(index, np.stack([np.full(len(index), seed), index], -1), False)

    def read_train(index: np.ndarray, seeds: np.ndarray) -> dict[str, np.ndarray]:
        return drawn(index, np.concatenate([np.full((len(index), 1), seed), seeds], -1), True)

    names = tuple(map(str, range(10)))
    return jc.data.Indexed(read, len(label), names, label=label, read_train=None if repeats else read_train)


def load(config: Config) -> jc.data.Splits:
    """Make the pairs of the three parts; those for validation and test do not depend on `--seed`."""
    if not 0 <= config.noise <= 10 or abs(config.snr) > 100:
        raise jc.InputError(f"--noise {config.noise}, --snr {config.snr}: must be in 0..10 and -100..100")
    held = digits(config)
    each = (("train", 0), ("valid", REPEATS), ("test", REPEATS))
    return jc.data.Splits(*(rows(held[part], config, seed, repeats) for seed, (part, repeats) in enumerate(each)))


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    settings.one_of("--only", config.only, INPUTS)
    if config.only != "both":
        settings.unused(config, "absent", instead="pairs lose an input with --only both alone")
    if not 1 <= config.vector <= 4096:
        raise jc.InputError(f"--vector {config.vector}: must be 1 to 4,096")
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    widths, alone = list(config.widths), config.only != "both"
    sound = {"rate": spoken_digits.RATE, "time_masks": 2, "mel_masks": 2}
    branches = {
        name: {"name": network, "options": {"num_classes": config.vector, "widths": widths, **options}}
        for name, network, options in (("image", "cnn", {}), ("audio", "sound_cnn", sound))
    }
    options = {"takes": {"audio": ["length"]}, "absent": 0.0 if alone else config.absent, "dropout": config.dropout}
    jc.models.fusion(10, branches, **options)  # refuse bad values before data are read
    splits = load(config)
    example = splits.train.example()
    shapes = {name: {"shape": list(x.shape[1:]), "dtype": str(x.dtype)} for name, x in example.items()}
    pixels = common.pixel_statistics(splits.train, 1000)
    build = {
        "model": common.model("fusion", config, num_classes=10, branches=branches, **options),
        "task": {"name": "classification", "options": {"field": "image", "also": list(ENTRIES), **pixels}},
        "ema": config.ema, "image": shapes["image"], "inputs": {name: shapes[name] for name in ENTRIES},
    }  # fmt: skip

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, ema=config.ema, build=build, dataset="mnist_fsdd", unit="pairs",
        validations=config.validations,
    )  # fmt: skip


def given(data: jc.data.Indexed, names: Sequence[str]) -> jc.data.Indexed:
    """Return the rows once for each name in `INPUTS`, with only these inputs; all rows of the first name come first."""
    present = np.array([INPUTS[name] for name in names], np.float32)

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        return dict(data.read(index % data.size)) | {"present": present[index // data.size]}

    return dataclasses.replace(data, read=read, size=data.size * len(names), label=None, read_train=None)


def measure(config: Config, loaded: runs.TrainedRun, data: jc.data.Indexed) -> dict[str, Any]:
    """Return the accuracy with both inputs and with either alone, of those that the network was trained with."""
    names = list(INPUTS) if config.only == "both" else [config.only]
    options = {"keep": ["label"], "batch_size": config.eval_batch_size}
    logits, kept = jc.collect(loaded.task.predict, loaded.variables, given(data, names), **options)
    right = (logits.argmax(-1) == kept["label"]).reshape(len(names), -1).mean(1)
    found: dict[str, Any] = {"noise": config.noise, "snr": config.snr, "only": config.only, "count": data.size}
    return found | {name: float(share) for name, share in zip(names, right, strict=True)}


def show(config: Config, loaded: runs.TrainedRun) -> list[dict[str, Any]]:
    """Print the digit in each image or sound of `--predict`; two files of different kinds are one digit."""
    inputs = loaded.config["build"]["inputs"]
    size, shape = inputs["audio"]["shape"][0], loaded.config["build"]["image"]["shape"]
    read = []
    for path in config.predict:
        batch = {"audio": np.zeros((1, size), np.float32), "length": np.ones(1, np.int32)}
        batch |= {"image": np.zeros((1, *shape), np.uint8), "present": np.zeros((1, 2), np.float32)}
        if heard := path.lower().endswith((".wav", ".flac")):
            sound = jc.data.read_sound(files.expanded(path), spoken_digits.RATE)[:size]
            batch["audio"][0, : len(sound)], batch["length"][0] = sound, len(sound)
        else:
            batch["image"][0] = pixels(loaded, pathlib.Path(path))
        batch["present"][0, int(heard)] = 1
        read.append((heard, batch))
    together = len(read) == 2 and read[0][0] != read[1][0]
    if together:
        (_, image), (_, sound) = sorted(read, key=lambda one: one[0])
        read = [(True, image | {k: sound[k] for k in ("audio", "length")} | {"present": np.ones((1, 2), np.float32)})]
    found = []
    for i, (_, batch) in enumerate(read):
        logits = np.asarray(loaded.task.predict(loaded.variables, batch))
        shares = np.asarray(jc.tasks.probabilities(logits))[0]
        named = {name: round(float(p), 6) for name, p in zip(loaded.config["classes"], shares, strict=True)}
        used = list(config.predict) if together else [config.predict[i]]
        found.append({"files": used, "class": loaded.config["classes"][shares.argmax()], "probabilities": named})
        print(files.to_json(found[-1]), flush=True)
    return found


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say; the accuracies of a new run go into `RUN/fusion.json`."""
    if config.evaluate or config.predict:
        folder, loaded = pathlib.Path(config.checkpoint), jc.load_run(config.checkpoint)
        if loaded.config["experiment"] != "fusion":
            raise jc.InputError(f"--checkpoint {visible(config.checkpoint)}: a run of {loaded.config['experiment']}")
        if config.predict:
            return show(config, loaded)
        saved = loaded.config["settings"]
        places = {name: getattr(config, name) or saved[name] for name in ("data", "sounds", "unpacked")}
        config = dataclasses.replace(config, **places, **settings.of_run(config, saved, "only", "noise", "snr"))
        data = load(config).test
    else:
        made = plan(config)
        if not common.train("fusion", config, made, signals, opened):  # another process has the results
            return None
        folder, data = opened[-1], made.data.test
        loaded = jc.load_run(folder)
    data = data if not config.limit_examples else runs.limited(data, config.limit_examples)
    values = measure(config, loaded, data)
    if not config.evaluate:
        files.write_json(folder / "fusion.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "fusion", PRESETS)
