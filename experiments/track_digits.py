"""Follows several moving digits through videos: `python -m experiments.track_digits MNIST`.

Task: in videos of 64x64 pixels, three of MNIST's digits move on straight ways, bounce off the borders and cross each
other; training, validation and test videos show different digits. A narrow FCOS (Tian et al., 2019, arXiv:1904.01355)
learns from single frames where digits are, and SORT (Bewley et al., 2016, arXiv:1602.00763) joins what it finds in the
frames of a video. Measured are MOTA (Bernardin and Stiefelhagen, 2008) and IDF1 (Ristani et al., 2016) on the test
videos; the least score of a detection and the settings of the tracker are those that are best on the validation videos.
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import tyro

import jaxcnn as jc
from experiments import cli, common, digit_clips, settings
from jaxcnn import runs
from jaxcnn.core import files
from jaxcnn.deploy.tracking import track
from jaxcnn.metrics import track_scores
from jaxcnn.runs.signals import Signals

FRAME = 64  # side of a frame in pixels
INK = 48  # least value of a pixel that belongs to a digit
ROWS = 64  # frames that are detected at a time
SCORES = (0.2, 0.3, 0.4, 0.5)
TRACKERS = [
    {"min_hits": hits, "max_missed": missed, "report_missed": report, "iou_threshold": 0.1}
    for hits, (missed, report) in itertools.product((1, 2, 3), ((1, False), (4, False), (2, True), (4, True)))
]


@dataclasses.dataclass(frozen=True)
class Config(settings.Settings):
    """Train a detector on single frames, and track what it finds in videos."""

    data: tyro.conf.Positional[str] = ""
    """Folder of MNIST's IDX files."""
    digits: int = 3
    """Digits in a video."""
    frames: int = 24
    """Frames of a video."""
    clips: int = 400
    """Training videos, whose frames are the rows; an eighth of it for validation and for the test."""
    width: int = 16
    """Channels of the first stage of the ResNet-18 under the detector."""
    epochs: int = 2
    """Passes over the training frames."""
    batch_size: int = 32
    """Rows in one update, over all devices."""
    eval_batch_size: int = 64
    """Rows per batch in evaluation, over all devices; changes the speed, not the result."""
    learning_rate: float = 3e-3
    """Highest value of the one-cycle schedule of AdamW."""
    weight_decay: float = 1e-2
    """Weight decay of kernels; biases and norm scales have none."""


PRESETS = {
    "smoke": {"epochs": 1, "max_steps": 2, "batch_size": 4, "clips": 16, "frames": 3, "width": 4, "eval_batch_size": 8}
}


def ink(sprites: np.ndarray) -> np.ndarray:
    """Return the boxes of the digits inside their squares, yxyx in pixels: `[N, 14, 14]` to `[N, 4]`."""
    found = []
    for axis in (2, 1):
        inside = (sprites >= INK).any(axis)
        found += [inside.argmax(1), inside.shape[1] - inside[:, ::-1].argmax(1)]
    return np.stack([found[0], found[2], found[1], found[3]], 1)


def videos(sprites: np.ndarray, count: int, config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make videos of digits on straight ways, which bounce off the borders.

    Args:
        sprites: `[M, 14, 14]` uint8.
        count: number of videos.
        config: the flags.
        seed: of everything that is drawn.

    Returns:
        uint8 `[N, T, 64, 64]`, and the boxes of all digits in pixels, `[N, T, digits, 4]`.

    """
    rng, room = np.random.default_rng(seed), FRAME - digit_clips.SIDE
    angle, speed = rng.uniform(0, 2 * np.pi, (count, config.digits)), rng.uniform(0.5, 1.5, (count, config.digits))
    velocity = speed[..., None] * np.stack([np.sin(angle), np.cos(angle)], -1)
    way = (
        rng.uniform(0, room, (count, 1, config.digits, 2)) + velocity[:, None] * np.arange(config.frames)[:, None, None]
    )
    corners = np.round(room - np.abs(way % (2 * room) - room)).astype(int)  # [N, T, digits, 2]
    chosen = sprites[rng.integers(0, len(sprites), (count, config.digits))]
    image = np.zeros((count, config.frames, FRAME, FRAME), np.uint8)
    for k in range(config.digits):
        image = np.maximum(image, digit_clips.drawn(chosen[:, k], corners[:, :, k], FRAME))
    boxes = ink(chosen.reshape(-1, *chosen.shape[2:])).reshape(count, 1, config.digits, 4)
    return image, boxes + np.concatenate([corners, corners], -1)


def load(config: Config) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Make the videos of the three parts; they do not depend on `--seed`."""
    if min(config.digits, config.frames) < 1 or config.clips < 16:
        raise jc.InputError("--digits and --frames must be at least 1, and --clips at least 16")
    pools, sizes = digit_clips.digits(config.data, "track_digits"), (config.clips, config.clips // 8, config.clips // 8)
    parts = enumerate(zip(digit_clips.PARTS, sizes, strict=True))
    return {part: videos(pools[part][0], size, config, i) for i, (part, size) in parts}


def rows(image: np.ndarray, boxes: np.ndarray) -> jc.data.Resident:
    """Return the frames of videos as rows of a detector."""
    boxes = (boxes.reshape(-1, *boxes.shape[2:]) / FRAME).astype(np.float32)
    label, mask = np.zeros(boxes.shape[:2], np.int32), np.ones(boxes.shape[:2], np.float32)
    arrays = {"image": image.reshape(-1, FRAME, FRAME, 1), "boxes": boxes, "box_label": label, "box_mask": mask}
    return jc.data.Resident(arrays, ("digit",))


def plan(config: Config, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> runs.Plan:
    """Make the plan from the flags."""
    settings.unused(config, "validation_fraction", instead="the data have fixed parts")
    rate, decay = jc.optim.check_rate(config.learning_rate), config.weight_decay
    splits = jc.data.Splits(*(rows(*made[part]) for part in digit_clips.PARTS))
    body = {"name": "resnet18", "options": {"width": config.width}}
    options = {"backbone": body, "width": 32, "depth": 2, "levels": [2, 3], "extra": 0, "candidates": 100}
    options |= {"max_detections": 16, "iou_threshold": 0.5, "num_classes": 1}
    build = {
        "model": common.model("fcos", config, **options),
        "task": {"name": "detection", "options": common.pixel_statistics(splits.train)},
        "image": {"shape": [FRAME, FRAME, 1], "dtype": "uint8"},
    }

    def optimizer(steps):
        return jc.optim.adamw(jc.optim.one_cycle(rate, steps=steps), weight_decay=decay)

    return runs.Plan(runs.build(build)[1], splits, optimizer, build=build, dataset="track_digits")


def detected(loaded: runs.TrainedRun, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes in pixels `[N, T, M, 4]` and their scores `[N, T, M]`, 0 where there is none."""
    frames = {"image": image.reshape(-1, FRAME, FRAME, 1)}
    keep = jax.jit(
        lambda variables, batch: {k: x for k, x in loaded.task.predict(variables, batch).items() if k != "raw"}
    )
    found, _ = jc.collect(keep, loaded.variables, frames, batch_size=ROWS)
    scores = np.where(found["box_mask"] > 0, found["scores"], 0)
    return (found["boxes"] * FRAME).reshape(*image.shape[:2], -1, 4), scores.reshape(*image.shape[:2], -1)


def scored(found: tuple[np.ndarray, np.ndarray], boxes: np.ndarray, least: float, options: dict[str, Any]) -> Any:
    """Track what was detected with a score of `least`, and compare with the true boxes."""
    sides = found[0][..., 2:] - found[0][..., :2]
    good = (found[1] >= least) & (sides > 0).all(-1)
    pairs = zip(found[0], good, strict=True)
    tracks = [track([b[g] for b, g in zip(video, some, strict=True)], **options) for video, some in pairs]
    return track_scores([[(np.arange(len(b)), b) for b in video] for video in boxes], tracks)


def measure(loaded: runs.TrainedRun, made: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Choose the settings on the validation videos, and measure on the test videos."""
    valid = detected(loaded, made["valid"][0])
    choices = [(least, options) for least in SCORES for options in TRACKERS]
    best = max(choices, key=lambda one: scored(valid, made["valid"][1], *one).mota)
    test = scored(detected(loaded, made["test"][0]), made["test"][1], *best)
    return {**test._asdict(), "valid_mota": scored(valid, made["valid"][1], *best).mota, "score": best[0], **best[1]}


def main(config: Config, signals: Signals, opened: list[pathlib.Path]) -> Any:
    """Train and measure, or measure a run; the scores go into the run's folder as well."""
    if config.predict:
        raise jc.InputError(
            "--predict: images do not move; use --evaluate, or jaxcnn.deploy.tracking on your detections"
        )
    loaded = jc.load_run(config.checkpoint) if config.evaluate else None
    if loaded is not None:
        if loaded.config["experiment"] != "track_digits":
            kind = loaded.config["experiment"]
            raise jc.InputError(f"--checkpoint {config.checkpoint}: a run of {kind}, not of track_digits")
        rows = settings.of_run(config, loaded.config["settings"], "digits", "frames", "clips")
        config = dataclasses.replace(config, **rows)
    made = load(config)
    if not config.evaluate and not common.train("track_digits", config, plan(config, made), signals, opened):
        return None  # another process has the results
    folder = pathlib.Path(config.checkpoint) if config.evaluate else opened[-1]
    values = measure(jc.load_run(folder) if loaded is None else loaded, made)
    files.write_json(folder / "track_digits.json", values)
    print(files.to_json(values), flush=True)
    return values


if __name__ == "__main__":
    cli.run(main, Config, "track_digits", PRESETS)
