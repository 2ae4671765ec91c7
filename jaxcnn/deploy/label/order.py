"""In which order images are shown to people, and which class is suggested for each."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import FrozenState, InputError
from jaxcnn.data import Indexed
from jaxcnn.data.image import decode
from jaxcnn.deploy.embed import embedder
from jaxcnn.deploy.outputs import AT_ONCE, outputs
from jaxcnn.methods import active
from jaxcnn.runs.single import row_of
from jaxcnn.tasks import probabilities

SCORES = {"entropy": active.entropy, "margin": active.margin, "confidence": active.least_confidence}
BY_RUN = (*SCORES, "bald")  # orders that need a run
ORDERS = ("auto", *BY_RUN, "coreset", "random")
SIDE = 8  # pixels of the images that are compared where there is no run
CENTRES = 1000  # most images that cover the others; those after them come at random
SAMPLES = 20  # networks that dropout draws, for bald
MOST_BYTES = 2**31  # of their probabilities
DIFFERENT = 500  # most images that are chosen to differ; those after them come by their scores
POOL = 10  # of this many times the images of a block, the most useful, those that differ most are chosen
Say = Callable[[str], None]


class Order(NamedTuple):
    """What is shown when.

    Attributes:
        rows: numbers of images, the most useful first and those with a label last; images that cannot be read are not
            among them.
        shares: probability of each class for each image, `[N, K]`; None without a run.
        name: of the order.
        vectors: features of the images, `[N, D]`; None where nothing needs them.
        bad: numbers of images that cannot be read.

    """

    rows: np.ndarray
    shares: np.ndarray | None
    name: str
    vectors: np.ndarray | None = None
    bad: frozenset[int] = frozenset()


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
    say: Say = lambda line: None, *, different: int = 0, embed: bool = False,
) -> Order:  # fmt: skip
    """Decide the order of images.

    Args:
        images: their files.
        taken: numbers of those that have a label.
        how: one of `ORDERS`. `"auto"` is `"margin"` with a run and `"coreset"` without; without a run, `"coreset"`
            compares pixels; `"bald"` needs a run whose network has dropout.
        loaded: a run that `check_run` accepts; None for none.
        seed: seed of random orders, and of what dropout draws.
        say: called with a line for each image that cannot be read.
        different: with the orders of `BY_RUN`, images of a block that are chosen to differ, see `spread`; 0 for no
            such choice.
        embed: keep the features of the run for `renewal.renewed`.

    Raises:
        InputError: an order that needs a run, or another network; or no image can be read.

    """
    if how not in ORDERS:
        raise InputError(f"--order {how}: must be one of {', '.join(ORDERS)}")
    how = how if how != "auto" else "coreset" if loaded is None else "margin"
    if how in BY_RUN and loaded is None:
        raise InputError(f"--order {how}: needs the predictions of a run; give --run RUN, or use coreset or random")
    if how == "bald":
        _check_dropout(loaded)
    bad: set[int] = set()
    shares = vectors = None
    if loaded is not None:
        flag = "--order coreset" if how == "coreset" else "--renew" if embed else "--diverse" if different else ""
        shares, vectors = _by_run(loaded, images, flag, bad, say)
    elif how == "coreset":
        vectors = _by_pixels(images, bad, say)
    if len(bad) == len(images):
        raise InputError("DATA: no image can be read; give a different folder")
    if how == "random":
        rows = active.at_random(len(images), len(images), taken=sorted({*taken, *bad}), seed=seed)
    elif how == "coreset":
        assert vectors is not None
        rows = _covering(vectors, taken, bad, seed)
    else:
        scores = _by_dropout(loaded, images, bad, seed) if how == "bald" else SCORES[how](shares)
        rows = by_score(scores, vectors, taken, bad, different)
    again = np.array(sorted(set(taken) - bad), np.int64)  # their labels may be taken back
    return Order(np.concatenate([rows, again]), shares, how, vectors, frozenset(bad))


def by_score(
    scores: np.ndarray, vectors: np.ndarray | None, taken: Sequence[int], bad: Sequence[int] | set[int] | frozenset,
    different: int = 0,
) -> np.ndarray:  # fmt: skip
    """Return the images with the highest scores first; with `different`, the first ones as `spread` chooses them."""
    left_out = sorted({*taken, *bad})
    first = np.zeros(0, np.int64)
    if different and vectors is not None:
        first = spread(scores, vectors, taken, bad, different)
    rest = active.highest(scores, len(scores), taken=sorted({*left_out, *first.tolist()}))
    return np.concatenate([first, rest])


def spread(
    scores: np.ndarray, vectors: np.ndarray, taken: Sequence[int], bad: Sequence[int] | set[int] | frozenset, block: int
) -> np.ndarray:
    """Choose images that are useful and differ from each other, in blocks.

    Of the `POOL * block` most useful images that are left, those of a block cover the others and are far from images
    with a label and from those of blocks before.

    Args:
        scores: usefulness `[N]`.
        vectors: features `[N, D]`.
        taken: numbers of images that have a label.
        bad: numbers of images that cannot be read.
        block: images of a block, at least 1.

    Returns:
        Numbers of at most `DIFFERENT` images.

    Reference: Zhdanov, 2019, arXiv:1901.05954, with a covering in place of clusters.

    """
    known, chosen = sorted(set(taken) - set(bad)), list[int]()
    while len(chosen) < DIFFERENT:
        pool = active.highest(scores, POOL * block, taken=sorted({*taken, *bad, *chosen}))
        if not len(pool):
            break
        before = np.array([*known, *chosen], np.int64)
        both = np.concatenate([pool, before])
        count = min(block, DIFFERENT - len(chosen))
        best = None if len(before) else 0  # the most useful image comes first of all
        places = active.k_centre(vectors[both], count, taken=np.arange(len(pool), len(both)), first=best)
        chosen += both[places].tolist()
    return np.array(chosen, np.int64)


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
    loaded: Any, images: Sequence[pathlib.Path], embed: str, bad: set[int], say: Say
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the probabilities `[N, K]` that a run gives, uniform for images that cannot be read, and its vectors.

    The vectors are computed if `embed` names the flag that needs them.
    """
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    count, call = len(loaded.config["classes"]), outputs(loaded, together=True)
    use = _embedder(loaded, embed) if embed else None
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


def _embedder(loaded: Any, flag: str) -> Any:
    try:
        return embedder(loaded)
    except InputError as error:
        why = str(error).split("; ")[0]
        raise InputError(f"{flag}: the run has no features to compare images by ({why}); leave it out") from error


def _check_dropout(loaded: Any) -> None:
    """Refuse a run whose network always gives the same."""
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    if head != "softmax":
        raise InputError(f"--order bald: needs a logit for each class, and the run's head is {head}; use margin")
    about = loaded.config["build"]["image"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, *about["shape"]), np.uint8)
    image = pixels if about["dtype"] == "uint8" else (pixels / 255).astype(about["dtype"])
    state = {k: v for k, v in loaded.variables.items() if k != "params"}

    def logits(key: Any) -> Any:
        batch = {"image": image, "label": np.zeros(2, np.int32)}
        return loaded.task.loss(loaded.variables["params"], FrozenState(state), batch, key)[1][0]

    one, other = jax.jit(jax.vmap(logits))(jax.random.split(jax.random.key(0)))
    if (one == other).all():
        raise InputError("--order bald: the run's network has no dropout; train with --dropout 0.5, or use margin")


def _by_dropout(loaded: Any, images: Sequence[pathlib.Path], bad: set[int], seed: int) -> np.ndarray:
    """Return the scores of `active.bald`, `[N]`; 0 for images that cannot be read."""
    good = np.array(sorted(set(range(len(images))) - bad), np.int64)
    size = 4 * len(good) * SAMPLES * len(loaded.config["classes"])
    if size > MOST_BYTES:
        raise InputError(f"--order bald: the samples of {len(good):,} images take {size / 2**30:.1f} GiB; use margin")

    def read(index: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.stack([row_of(loaded.config, images[int(good[i])])["image"] for i in index])
        return {"image": rows, "label": np.zeros(len(rows), np.int32)}

    data = Indexed(read, len(good), tuple(loaded.config["classes"]), label=np.zeros(len(good), np.int32))
    scores = np.zeros(len(images))
    try:
        samples = active.dropout_samples(
            loaded.task, loaded.variables, data, SAMPLES, seed=seed, batch_size=min(AT_ONCE, len(good))
        )
    except InputError as error:
        raise InputError(f"--order bald: {error}") from error
    scores[good] = active.bald(samples)
    return scores
