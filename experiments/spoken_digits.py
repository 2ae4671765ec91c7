"""Recognises spoken digits: `python -m experiments.spoken_digits fsdd_recordings.zip`.

Data: the Free Spoken Digit Dataset, 3,000 recordings of the digits by six speakers at 8,000 Hz. In the official split,
recordings 0 to 4 of each speaker and digit are the test part; 5 to 9 are for validation here, and the others for
training. `--held-out SPEAKER` tests on all recordings of a speaker whom the network never heard, and validates on
recordings 0 to 4 of the others; with `--tune`, that speaker is left out, and the next one takes the place of the test,
to choose settings. The network is `models.sound_cnn` on mel spectrograms, with changes of speed, shifts and noise, and
with `--masks` SpecAugment (Park et al., 2019, arXiv:1904.08779); `--model wave_cnn` is M5 on the samples (Dai et al.,
2016, arXiv:1610.00087). Sounds are read up to one second, which 20 of the 3,000 exceed. `--predict` takes files of any
length, and averages windows of a second.
"""

import dataclasses
import pathlib
import re
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import archives, cli, common, inference, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.runs.signals import Signals

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
FILE = re.compile(r"(?:.*/)?((\d)_([a-z]+)_(\d+)\.wav)")
MODELS = ("sound_cnn", "wave_cnn")
RATE = 8000


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train, evaluate or use a network that recognises spoken digits."""

    data: tyro.conf.Positional[str] = ""
    """The archive, or a folder with train/<digit>, valid/<digit> and test/<digit>."""
    unpacked: str = ""
    """Folder into which the archive is unpacked; by default checkpoints/data/spoken_digits."""
    held_out: str = ""
    """Speaker to test on, whom the network does not hear: george, jackson, lucas, nicolas, theo or yweweler."""
    tune: bool = False
    """Leave the speaker of --held-out out altogether, and test on the next one in the list, to choose settings."""
    model: str = "sound_cnn"
    """sound_cnn or wave_cnn."""
    normalise: str = "clip"
    """Normalisation of spectrograms: clip, bands or running; see models.sound_cnn."""
    widths: tuple[int, ...] = (16, 32, 64, 64)
    """Channels of the stages of sound_cnn."""
    epochs: int = 20
    """Passes over the training rows."""
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
    strength: float = 0.5
    """Factor of the augmentation: speed, place in time and noise; 0 for none."""
    masks: int = 0
    """Masks of time, and of bands, in a spectrogram in training."""
    validations: int = 10
    """Number of validations in a run."""


PRESETS = {"smoke": {"epochs": 1, "max_steps": 3, "batch_size": 8, "limit_examples": 16, "widths": (4, 8), "ema": 0.0}}


def source(config: Config) -> dict[str, Any]:
    """Return the arguments of `jc.data.sounds`, with the archive unpacked into the parts of the split."""
    if config.held_out:
        settings.one_of("--held-out", config.held_out, SPEAKERS)
    if config.held_out and config.data and files.expanded(config.data).is_dir():
        raise jc.InputError(f"--held-out {config.held_out}: needs the archive, because a folder has parts of its own")
    if config.tune and not config.held_out:
        raise jc.InputError("--tune: needs --held-out; the official split has a validation part")
    tested = config.held_out
    if config.tune:
        tested = SPEAKERS[(SPEAKERS.index(config.held_out) + 1) % len(SPEAKERS)]

    def place(name: str) -> str | None:
        found = FILE.fullmatch(name)
        if not found or (config.tune and found[3] == config.held_out):
            return None
        number = int(found[4])
        test = found[3] == tested if tested else number < 5
        part = "test" if test else "valid" if number < (5 if tested else 10) else "train"
        return f"{part}/{found[2]}/{found[1]}"

    top = pathlib.Path(config.unpacked or "checkpoints/data/spoken_digits")
    top = top / (f"{config.held_out}{'-tune' * config.tune}" or "official")
    path = archives.folder_of("spoken_digits", dataclasses.replace(config, unpacked=str(top)), place)
    return {"path": str(path), "rate": RATE, "seconds": 1.0}


def plan(config: Config) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    settings.one_of("--model", config.model, MODELS)
    if not 0 <= config.strength <= 2:
        raise jc.InputError(f"--strength {config.strength}: must be in 0..2")
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    options: dict[str, Any] = {"dropout": config.dropout}
    if config.model == "sound_cnn":
        options |= {"rate": RATE, "normalise": config.normalise, "widths": list(config.widths)}
        options |= {"time_masks": config.masks, "mel_masks": config.masks}
    jc.models.SOUNDS[config.model](**options)  # refuse bad values before data are read
    skipped, read = settings.Skipped(), source(config)
    splits = jc.data.sounds(**read, on_bad=skipped if config.on_bad_example == "skip" else None)
    example = splits.train.example()
    build = {
        "model": common.model(config.model, config, num_classes=len(splits.train.classes), **options),
        "task": {"name": "classification", "options": {"field": "audio", "also": ["length"], "label_smoothing": 0.1}},
        "ema": config.ema,
        "inputs": {
            name: {"shape": list(example[name].shape[1:]), "dtype": str(example[name].dtype)}
            for name in ("audio", "length")
        },
    }
    s = config.strength
    change = jc.augment.compose(
        jc.augment.speed((0.8**s, 1.25**s)), jc.augment.time_shift(round(800 * s)),
        jc.augment.add_noise((30 - 20 * s, 60 - 20 * s)), jc.augment.gain(),
    )  # fmt: skip

    def optimizer(steps: int) -> Any:
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    def wrap(step: Any) -> Any:
        return jc.augmented(step, change) if s else step

    return runs.Plan(
        runs.build(build)[1], splits, optimizer, wrap=wrap, ema=config.ema, build=build, dataset="spoken_digits",
        unit="sounds", skipped=skipped, source=runs.source("sounds", read), validations=config.validations,
    )  # fmt: skip


def predict(config: Config) -> list[dict[str, Any]]:
    """Print one JSON line per file of `--predict`: the digit and probabilities, means over windows of the file."""
    loaded = jc.load_run(config.checkpoint)
    (size,), classes, found = loaded.config["build"]["inputs"]["audio"]["shape"], loaded.config["classes"], []
    outputs = jax.jit(loaded.task.predict)
    for path in config.predict:
        rows, length = jc.data.windows(jc.data.read_sound(files.expanded(path), RATE), size)
        batches = [slice(i, i + config.eval_batch_size) for i in range(0, len(rows), config.eval_batch_size)]
        logits = [outputs(loaded.variables, {"audio": rows[i], "length": length[i]}) for i in batches]
        shares = np.asarray(jc.tasks.probabilities(np.concatenate(logits)))
        mean = np.average(shares, axis=0, weights=length)
        named = {name: round(float(p), 6) for name, p in zip(classes, mean, strict=True)}
        found.append(
            {"sound": path, "class": classes[int(mean.argmax())], "probabilities": named, "windows": len(rows)}
        )
        print(files.to_json(found[-1]), flush=True)
    return found


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Evaluate, predict or train, as the flags say."""
    if config.evaluate:
        return inference.evaluate_run("spoken_digits", config, config.data and str(files.expanded(config.data)))
    return predict(config) if config.predict else common.train("spoken_digits", config, plan(config), signals, opened)


if __name__ == "__main__":
    cli.run(main, Config, "spoken_digits", PRESETS)
