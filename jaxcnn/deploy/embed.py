"""Vectors of images by a run: the outputs of an embedding run, or the pooled features of any other."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.precision import promote_float32
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, Tree
from jaxcnn.data.folder import ENDINGS
from jaxcnn.runs.single import pixels
from jaxcnn.tasks import prepare
from jaxcnn.tasks.pixels import check_image
from jaxcnn.train.checkpoint import digest, flatten

Array = jax.Array
KNOWN = ("mean", "std", "size", "resize", "interpolation")  # options of `prepare`
SHORTEST = 1e-24  # squared length of a vector below which it has no direction


class Embedder(NamedTuple):
    """How a run turns images into vectors.

    Attributes:
        embed: function from images `[B, H, W, C]` to unit vectors `[B, D]`, at any B.
        read: function from a file to its image `[H, W, C]`, as the run was trained on.
        run: digest of the run's variables, which an index keeps.

    """

    embed: Callable[[Any], np.ndarray]
    read: Callable[[str | os.PathLike], np.ndarray]
    run: str


def embedder(loaded: Any) -> Embedder:
    """Return how a run turns images into unit vectors.

    An embedding run gives its outputs. A run of another task gives what its head reads: the last entry of the model's
    `features`, averaged over all positions.

    Args:
        loaded: result of `load_run`.

    Raises:
        InputError: the run's model or task is your own, is not for images of two dimensions, has no features, or
            compares vectors by their Euclidean distance.

    """
    build = loaded.config["build"]
    if build is None:
        raise InputError(
            "the run has a model or a task of your own: compute the vectors with it, and give them to enrol"
        )
    if "image" not in build or len(build["image"]["shape"]) != 3:
        raise InputError("the run is not for images [H, W, C]: compute the vectors in Python, and give them to enrol")
    name, options = build["task"]["name"], build["task"]["options"]
    if name != "embedding" and not callable(getattr(loaded.model, "features", None)):
        raise InputError(f"model={type(loaded.model).__name__}: has no features(); train with task='embedding'")
    if name == "embedding" and options.get("unit") is False:
        raise InputError(
            "the run compares vectors by their Euclidean distance (unit=False), not by their cosine: compute them with "
            "jaxcnn.runs.predict, and give them to enrol(measure='euclidean')"
        )
    how = {k: options[k] for k in KNOWN if options.get(k) is not None}

    def vectors(variables: Tree, image: Array) -> Array:
        if name == "embedding":
            found = loaded.task.predict(variables, {"image": image})
        else:
            features = loaded.model.apply(variables, prepare(image, **how), train=False, method="features")
            last = promote_float32(list(features.values())[-1])
            found = last.mean(tuple(range(1, last.ndim - 1)))
        squared = jnp.square(found).sum(-1, keepdims=True)
        return jnp.where(squared > SHORTEST, found * jax.lax.rsqrt(jnp.maximum(squared, SHORTEST)), jnp.nan)

    compiled = jax.jit(vectors)
    shape = tuple(build["image"]["shape"])

    def embed(images: Any) -> np.ndarray:
        given = np.shape(images)
        if len(given) != 4 or given[1:] != shape or not given[0]:
            raise InputError(f"images of shape {given}: must be [B, {', '.join(map(str, shape))}]; resize them")
        check_image({"image": images})
        found = np.asarray(compiled(loaded.variables, images))
        if not np.isfinite(found).all():
            row = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
            raise InputError(f"the vector of image {row} has no direction or is not finite; check the weights")
        return found

    return Embedder(embed, lambda path: pixels(loaded.config, pathlib.Path(path)), digest(flatten(loaded.variables)))


def images_in(folder: str | os.PathLike) -> list[pathlib.Path]:
    """Return the image files below a folder, in order.

    Raises:
        InputError: there is no such folder, or it has no images.

    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise InputError(f"{visible(folder)}: no such folder; give a folder of images")
    found = sorted(p for p in root.rglob("*") if p.name.lower().endswith(tuple(ENDINGS)) and p.is_file())
    if not found:
        raise InputError(f"{visible(folder)}: no images in this folder; give a different folder")
    return found


def embed_files(
    use: Embedder, paths: Sequence[str | os.PathLike], *, batch_size: int = 32,
    unreadable: Callable[[str], None] | None = None,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Return the vectors of image files, which are read a few at a time.

    Args:
        use: result of `embedder`.
        paths: image files.
        batch_size: images at a time.
        unreadable: called with a line for each file that cannot be read, which is left out; None to raise.

    Returns:
        float32 `[N, D]` and the names of the N files.

    Raises:
        InputError: a file cannot be read and `unreadable` is None, or none can.

    """
    vectors, names = [], []
    for start in range(0, len(paths), batch_size):
        images = []
        for path in paths[start : start + batch_size]:
            try:
                images.append(use.read(path))
                names.append(os.fspath(path))
            except InputError as error:
                if unreadable is None:
                    raise
                unreadable(str(error))
        if images:
            width = batch_size if len(paths) > batch_size else len(images)  # one compiled program serves all batches
            batch = np.stack(images + images[:1] * (width - len(images)))
            vectors.append(use.embed(batch)[: len(images)])
    if not vectors:
        raise InputError("no image could be read; give others")
    return np.concatenate(vectors), names
