"""In which order images are shown to people, and which class is suggested for each."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.image import decode
from jaxcnn.deploy.embed import embedder
from jaxcnn.deploy.outputs import AT_ONCE, outputs
from jaxcnn.methods import active
from jaxcnn.runs.single import row_of
from jaxcnn.tasks import probabilities

SCORES = {"entropy": active.entropy, "margin": active.margin, "confidence": active.least_confidence}
ORDERS = ("auto", *SCORES, "coreset", "random")
SIDE = 8  # pixels of the images that are compared where there is no run
CENTRES = 1000  # most images that cover the others; those after them come at random
Say = Callable[[str], None]


class Order(NamedTuple):
    """What is shown when.

    Attributes:
        rows: numbers of images, the most useful first; images that cannot be read are not among them.
        shares: probability of each class for each image, `[N, K]`; None without a run.
        name: of the order.

    """

    rows: np.ndarray
    shares: np.ndarray | None
    name: str


def check_run(loaded: Any, path: str) -> tuple[str, ...]:
    """Return the classes of a run, and refuse one that gives no image a class.

    Raises:
        InputError: the run is not a classification of images with one class for each.

    """
    build = loaded.config["build"]
    task = build["task"] if build else {"name": "your own", "options": {}}
    head = task["options"].get("head", "softmax")
    shape = (build or {}).get("image", {}).get("shape", ())
    if task["name"] != "classification" or head == "multilabel" or len(shape) != 3:
        raise InputError(f"--run {visible(path)}: must be a classification of images; its task is {task['name']}")
    return tuple(loaded.config["classes"])


def ordered(
    images: Sequence[pathlib.Path], taken: Sequence[int], how: str, loaded: Any = None, seed: int = 0,
    say: Say = lambda line: None,
) -> Order:  # fmt: skip
    """Decide the order of images.

    Args:
        images: their files.
        taken: numbers of those that have a label.
        how: one of `ORDERS`. `"auto"` is `"margin"` with a run and `"coreset"` without; without a run, `"coreset"`
            compares pixels.
        loaded: a run that `check_run` accepts; None for none.
        seed: seed of random orders.
        say: called with a line for each image that cannot be read.

    Raises:
        InputError: an order that needs a run, or no image can be read.

    """
    if how not in ORDERS:
        raise InputError(f"--order {how}: must be one of {', '.join(ORDERS)}")
    how = how if how != "auto" else "coreset" if loaded is None else "margin"
    if how in SCORES and loaded is None:
        raise InputError(f"--order {how}: needs the predictions of a run; give --run RUN, or use coreset or random")
    bad: set[int] = set()
    shares = vectors = None
    if loaded is not None:
        shares, vectors = _by_run(loaded, images, how == "coreset", bad, say)
    elif how == "coreset":
        vectors = _by_pixels(images, bad, say)
    if len(bad) == len(images):
        raise InputError("DATA: no image can be read; give a different folder")
    left_out = sorted({*taken, *bad})
    if how == "random":
        rows = active.at_random(len(images), len(images), taken=left_out, seed=seed)
    elif how == "coreset":
        assert vectors is not None
        rows = _covering(vectors, taken, bad, seed)
    else:
        rows = active.highest(SCORES[how](shares), len(images), taken=left_out)
    return Order(rows, shares, how)


def _covering(vectors: np.ndarray, taken: Sequence[int], bad: set[int], seed: int) -> np.ndarray:
    """Return images that cover the others, and then the others at random."""
    good = np.array(sorted(set(range(len(vectors))) - bad), np.int64)
    place = np.flatnonzero(np.isin(good, list(taken)))
    first = good[active.k_centre(vectors[good], CENTRES, taken=place)]
    rest = active.at_random(len(vectors), len(vectors), taken=sorted({*taken, *bad, *first.tolist()}), seed=seed)
    return np.concatenate([first, rest])


def _by_pixels(images: Sequence[pathlib.Path], bad: set[int], say: Say) -> np.ndarray:
    """Return the pixels of small copies as vectors in 0..1, `[N, D]`; 0 for images that cannot be read."""
    found = np.zeros((len(images), SIDE * SIDE * 3), np.float32)
    for i, path in enumerate(images):
        try:
            found[i] = decode(path, "RGB", (SIDE, SIDE)).reshape(-1) / np.float32(255)
        except InputError as error:
            bad.add(i)
            say(str(error))
    return found


def _by_run(
    loaded: Any, images: Sequence[pathlib.Path], embed: bool, bad: set[int], say: Say
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the probabilities `[N, K]` that a run gives, uniform for images that cannot be read, and its vectors."""
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    count, call = len(loaded.config["classes"]), outputs(loaded, together=True)
    use = embedder(loaded) if embed else None
    shares, vectors = np.full((len(images), count), 1 / count, np.float32), None
    for start in range(0, len(images), AT_ONCE):
        rows, kept = [], []
        for i in range(start, min(start + AT_ONCE, len(images))):
            try:
                rows.append(row_of(loaded.config, images[i]))
                kept.append(i)
            except InputError as error:
                bad.add(i)
                say(str(error))
        if not rows:
            continue
        shares[kept] = np.asarray(probabilities(jnp.asarray(np.stack(call(rows, AT_ONCE))), head))
        if use is not None:
            batch = np.stack([row["image"] for row in rows] + [rows[0]["image"]] * (AT_ONCE - len(rows)))
            part = use.embed(batch)[: len(rows)]
            vectors = np.zeros((len(images), part.shape[1]), np.float32) if vectors is None else vectors
            vectors[kept] = part
    if not np.isfinite(shares).all():
        raise InputError("--run: gives probabilities that are not finite; give another run")
    return shares, vectors
