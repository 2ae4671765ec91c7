"""What a run's outputs for one row say, as plain values: classes, numbers, the mask of an image, or its objects."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import image_box, unletterbox
from jaxcnn.data.stored import UNKNOWN, stored_classes
from jaxcnn.runs.described import reading
from jaxcnn.tasks import decoded, probabilities

LEAST_SCORE = 0.25  # of a box


def described(loaded: Any, file: str, outputs: np.ndarray) -> dict[str, Any]:
    """Return the prediction for one row as plain values.

    Args:
        loaded: the run.
        file: name of the row's file.
        outputs: outputs of the model: `[K]`, of a sequence `[T, 1 + K]`.

    Raises:
        InputError: the outputs are not finite.

    """
    classes, task = loaded.config["classes"], loaded.config["build"]["task"]
    if not np.isfinite(outputs).all():
        raise InputError(f"{visible(file)}: the outputs are not finite; check the weights")
    if task["name"] == "sequence":
        symbols, score = (np.asarray(x)[0] for x in decoded(jnp.asarray(outputs[None])))
        found = [classes[k] if classes else int(k) for k in symbols if k >= 0]
        return {"file": file, "symbols": found, "probability": round(float(np.exp(score)), 6)}
    if task["name"] != "classification" or not classes:
        values = [float(f"{v:.7g}") + 0.0 for v in np.asarray(outputs, np.float64).tolist()]  # no minus zero
        return {"file": file, "value": values[0]} if len(values) == 1 else {"file": file, "values": values}
    head = task["options"].get("head", "softmax")
    found = np.asarray(probabilities(jnp.asarray(outputs[None]), head))[0]
    each = {name: round(float(p), 6) for name, p in zip(classes, found, strict=True)}
    return {"file": file, **_told(classes, found, head == "multilabel"), "probabilities": each}


def sound_described(
    loaded: Any, file: str, places: Sequence[tuple[float, float]], outputs: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return the prediction for a sound as plain values: the mean of its windows, weighted by their lengths.

    Args:
        loaded: the run.
        file: name of the sound's file.
        places: start and end of each window in seconds.
        outputs: outputs of the model for each window, `[K]`.

    Returns:
        `"file"`, `"class"`, `"probability"` and `"probabilities"`; and for several windows `"windows"`, with the
        seconds of `"start"` and `"end"`, the `"class"` and its `"probability"`. With several labels per row, `"labels"`
        in place of the class.

    Raises:
        InputError: the outputs are not finite.

    """
    classes = loaded.config["classes"]
    if not np.isfinite(outputs).all():
        raise InputError(f"{visible(file)}: the outputs are not finite; check the weights")
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    shares = np.asarray(probabilities(jnp.stack(outputs), head))  # [N, K]
    mean = np.average(shares, axis=0, weights=[end - start for start, end in places])
    each = {name: round(float(p), 6) for name, p in zip(classes, mean, strict=True)}
    several = head == "multilabel"
    found = {"file": file, **_told(classes, mean, several), "probabilities": each}
    if len(places) > 1:
        found["windows"] = [
            {"start": round(start, 3), "end": round(end, 3), **_told(classes, p, several)}
            for (start, end), p in zip(places, shares, strict=True)
        ]
    return found


def _told(classes: Sequence[str], shares: np.ndarray, several: bool) -> dict[str, Any]:
    """Return the class with the highest probability and that, or all labels with more than one half."""
    if several:
        return {"labels": [name for name, p in zip(classes, shares, strict=True) if p > 0.5]}
    return {"class": classes[int(shares.argmax())], "probability": round(float(shares.max()), 6)}


class Mask(NamedTuple):
    """The classes of an image's pixels, uint8 `[H, W]`, and each class's share of the pixels that have one."""

    mask: np.ndarray
    shares: dict[str, float]


def mask_of(loaded: Any, file: str, scores: np.ndarray, sides: tuple[int, int]) -> Mask:
    """Return the mask of an image in the pixels of its file.

    Args:
        loaded: the run.
        file: name of the image file.
        scores: logits of the network, `[h, w, K]`.
        sides: height and width of the file, as a viewer shows it.

    Raises:
        InputError: the scores are not finite.

    """
    classes = loaded.config["classes"]
    if not np.isfinite(scores).all():
        raise InputError(f"{visible(file)}: the outputs are not finite; check the weights")
    mask = stored_classes(scores, sides, *reading(loaded.config))
    counts = np.bincount(mask[mask != UNKNOWN], minlength=len(classes))
    shares = {name: round(float(n), 6) for name, n in zip(classes, counts / max(counts.sum(), 1), strict=True)}
    return Mask(mask, shares)


class Objects(NamedTuple):
    """The objects of an image.

    Attributes:
        boxes: `[N, 4]`, yxyx in pixels of the file.
        scores: `[N]`, in 0..1.
        labels: `[N]`, from 0.
        objects: the same as plain values, with boxes as left, top, right, bottom.

    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    objects: list[dict[str, Any]]


def objects_of(loaded: Any, file: str, found: Any, sides: tuple[int, int], least_score: float = LEAST_SCORE) -> Objects:
    """Return the objects of an image in the pixels of its file.

    Args:
        loaded: the run.
        file: name of the image file.
        found: detections of the image, `"boxes"` `[M, 4]` and so on.
        sides: height and width of the file, as a viewer shows it.
        least_score: boxes with lower scores are left out.

    Raises:
        InputError: the boxes or scores are not finite.

    """
    classes = loaded.config["classes"]
    kept = (found["box_mask"] > 0) & (found["scores"] >= least_score)
    boxes, scores, labels = (np.asarray(found[name])[kept] for name in ("boxes", "scores", "labels"))
    if not (np.isfinite(boxes).all() and np.isfinite(found["scores"]).all()):
        raise InputError(f"{visible(file)}: the outputs are not finite; check the weights")
    frame = image_box(sides, tuple(loaded.config["build"]["image"]["shape"][:2]), reading(loaded.config)[0])
    pixels = unletterbox(boxes, np.array(sides), frame)
    objects = [
        {"class": classes[int(k)], "score": round(float(p), 6), "box": [round(float(x), 2) for x in box[[1, 0, 3, 2]]]}
        for box, p, k in zip(pixels, scores, labels, strict=True)
    ]
    return Objects(pixels, scores, labels, objects)
