"""Normal and abnormal images for `experiments.inspection`, the scratches that are drawn into photos, and the scores."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as jc
from experiments import archives, mednist, settings
from jaxcnn import runs
from jaxcnn.core.text import visible
from jaxcnn.data.folder import read_image
from jaxcnn.methods import one_class

KINDS = {"mednist": mednist.CLASSES, "scratches": archives.PHOTOS}
HELD_OUT, SPLIT_SEED, SCRATCH_SEED = 0.1, 0, 20261129


class Rows(NamedTuple):
    """Images, uint8 `[N, H, W, C]`: normal ones to train on and to validate on, and both kinds to test on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    abnormal: np.ndarray  # bool [N]
    mask: np.ndarray | None = None  # [N, H, W], 1 where a scratch is


def load(config: Any) -> Rows:
    """Read the images of a kind, of which `--normal` names the normal class."""
    settings.one_of("KIND", config.kind, KINDS)
    settings.one_of("--normal", config.normal, KINDS[config.kind])
    if not config.data:
        raise jc.InputError(f"DATA: give the archive, as in python -m experiments.inspection {config.kind} DATA")
    if config.kind == "scratches":
        return _photos(config)
    parts = jc.data.folder(**mednist.source(config))
    k = mednist.CLASSES.index(config.normal)
    train, valid = (np.asarray(x.arrays["image"])[x.label == k] for x in (parts.train, parts.valid))
    most = config.limit_examples or len(parts.test.label)
    pick = np.random.default_rng(SPLIT_SEED).permutation(parts.test.size)[: 6 * most]
    return Rows(train[:most], valid[:most], np.asarray(parts.test.arrays["image"])[pick], parts.test.label[pick] != k)


def _photos(config: Any) -> Rows:
    def place(name: str) -> str | None:
        found = archives.photo(name)
        return found.place if found and found.kind == config.normal else None

    root, images = archives.folder_of("scratches", config, place), {}
    for part in ("train", "test"):
        folder = pathlib.Path(root) / part / config.normal
        paths = sorted(folder.glob("*.[jp][pn]g"))[: 4 * config.limit_examples or None]
        if not paths:
            raise jc.InputError(f"{visible(folder)}: no images there; give the archive or the folder of CIFAR-10")
        images[part] = np.stack([read_image(path, 3, (32, 32)) for path in paths])
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images["train"]))
    held, test = max(int(HELD_OUT * len(order)), 1), images["test"]
    abnormal, mask = np.arange(len(test)) % 2 == 1, np.zeros(test.shape[:3], np.int32)
    for i in np.flatnonzero(abnormal):
        test[i], mask[i] = scratched(test[i], np.random.default_rng((SCRATCH_SEED, int(i))))
    return Rows(images["train"][order[held:]], images["train"][order[:held]], test, abnormal, mask)


def scratched(image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scratch into a photo `[H, W, C]`: a thin quadratic curve, bright or dark, of varying strength.

    Returns:
        The photo, uint8, and where the scratch is, int32 `[H, W]`.

    """
    side = np.array(image.shape[:2])
    middle, angle = rng.uniform(0.25, 0.75, 2) * side, rng.uniform(0, np.pi)
    along = np.array([np.sin(angle), np.cos(angle)])
    reach, bend = rng.uniform(0.2, 0.45) * side.min(), rng.uniform(-0.3, 0.3) * side.min()
    t = np.linspace(-1, 1, 8 * int(side.max()))
    points = middle + t[:, None] * reach * along + (t**2 - 0.5)[:, None] * bend * along[::-1] * [1, -1]
    wave = 0.7 + 0.3 * np.sin(t * rng.uniform(1, 6) + rng.uniform(0, 6))
    power = rng.uniform(0.2, 0.5) * rng.choice([-1, 1]) * wave
    places = np.stack(np.meshgrid(*map(np.arange, side), indexing="ij"), -1) + 0.5
    far = np.linalg.norm(places[:, :, None] - points, axis=-1)
    nearest, cover = far.argmin(-1), np.clip(rng.uniform(0.5, 1.0) + 0.5 - far.min(-1), 0, 1)
    out = image / 255 + (cover * power[nearest])[..., None]
    return (out.clip(0, 1) * 255).round().astype(np.uint8), (cover > 0.5).astype(np.int32)


def pasted() -> jc.augment.Transform:
    """Mirror photos, and draw up to two strips into each, thin and bent ones; three photos in eight stay clean."""
    strips = {"length": (0.2, 0.9), "width": (0.0, 0.09), "brightness": 0.5, "bend": 0.3, "own": 0.7, "smooth": True}
    rare = one_class.cut_paste(probability=0.25, **strips)
    return jc.augment.compose(jc.augment.flip, one_class.cut_paste(**strips), rare)


def clean(images: np.ndarray, turns: bool) -> jc.data.Resident:
    """Return normal images as rows to train on, whose label or mask is set when they are changed."""
    if turns:
        rows = {"image": images, "label": np.arange(len(images), dtype=np.int32) % one_class.WAYS}
        return jc.data.Resident(rows, tuple(map(str, range(one_class.WAYS))))
    return jc.data.Resident({"image": images, "mask": np.zeros(images.shape[:3], np.int32)}, ("normal", "defect"))


def changed(images: np.ndarray, change: jc.augment.Transform, seed: int) -> jc.data.Resident:
    """Return images changed once, with their label or mask, as rows to validate on."""
    rows = change(jax.random.key(seed), {"image": jnp.asarray(images)})
    names = tuple(map(str, range(one_class.WAYS))) if "label" in rows else ("normal", "defect")
    return jc.data.Resident({name: np.asarray(x) for name, x in rows.items()}, names)


def marked(rows: Rows) -> jc.data.Resident:
    """Return the test photos with their true scratches."""
    return jc.data.Resident({"image": rows.test, "mask": rows.mask}, ("normal", "defect"))


def shares(loaded: runs.TrainedRun, images: np.ndarray) -> np.ndarray:
    """Return the log-odds of a defect in each pixel, `[N, H, W]`."""
    logits, _ = jc.collect(loaded.task.predict, loaded.variables, {"image": images})
    return logits[..., 1] - logits[..., 0]


def scorer(kind: str, loaded: runs.TrainedRun, train: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from images to their scores, `[N]`; higher is more abnormal."""
    if kind == "scratches":
        return lambda images: one_class.map_score(shares(loaded, images))
    bank = one_class.fit_bank(features(loaded, train))
    return lambda images: one_class.nearest_score(bank, features(loaded, images))


def features(loaded: runs.TrainedRun, images: Any) -> np.ndarray:
    """Return the means of each stage's channels over a grid of 2x2 places, `[N, C]`."""
    options = loaded.config["build"]["task"]["options"]

    def made(variables, batch):
        x = jc.tasks.prepare(batch["image"], **options)
        found = loaded.model.apply(variables, x, train=False, method="features")
        grids = [jc.ops.adaptive_avg_pool(y, (2, 2)).reshape(len(x), -1) for y in found.values()]
        return jnp.concatenate(grids, -1)

    return jc.collect(made, loaded.variables, {"image": np.asarray(images)})[0]
