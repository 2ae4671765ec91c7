"""What the report of a segmentation adds: scores per class, the classes taken for each other, and the worst images."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.files import plain
from jaxcnn.core.text import html as escape
from jaxcnn.core.text import visible
from jaxcnn.data import drawing
from jaxcnn.metrics.segmentation import Overlap
from jaxcnn.report.markup import number, table
from jaxcnn.report.record import picture
from jaxcnn.runs import Rows, TrainedRun
from jaxcnn.tasks.segmentation import KEYS
from jaxcnn.train.evaluation import collect

SHOWN, SIDE, PAIRS = 8, 256, 20  # worst images; their largest side in pixels; pairs of classes listed


def segments(config: Mapping[str, Any]) -> bool:
    """Whether a run is of this library's segmentation of images or volumes."""
    build = config["build"]
    axes = 0 if build is None else len(build.get("image", {}).get("shape", ()))  # others than images are in "inputs"
    return build is not None and build["task"]["name"] == "segmentation" and axes in (3, 4)


def segmentation(made: dict[str, Any], loaded: TrainedRun, rows: Rows, batch_size: int = 32) -> dict[str, Any]:
    """Add what single images and classes show to the report of a run.

    Args:
        made: the report, from `general`.
        loaded: the run.
        rows: the rows to measure.
        batch_size: rows per batch.

    Returns:
        The report with `"per_class"`, `"confused"` and `"worst"`.

    """
    classes = loaded.config["classes"]
    counts = _counts(loaded, rows.data, len(classes), batch_size)
    total = counts.sum(0)
    found = Overlap(total).compute()
    with np.errstate(invalid="ignore", divide="ignore"):
        each = {
            "pixels": total.sum(1) / total.sum(), "iou": found["iou_per_class"], "dice": found["dice_per_class"],
            "precision": total.diagonal() / total.sum(0), "recall": total.diagonal() / total.sum(1),
        }  # fmt: skip
    per_class = [{"class": name, **{k: _known(v[i]) for k, v in each.items()}} for i, name in enumerate(classes)]
    scores = np.array([Overlap(one).compute()["iou"] for one in counts])
    order = np.argsort(np.where(np.isnan(scores), np.inf, scores), kind="stable")[:SHOWN]
    worst = [one for one in _drawn(loaded, rows, order.tolist(), scores) if one is not None]
    if not rows.own:
        line = f"Classes and examples are of other data than the other figures: {rows.name} ({rows.part})."
        made["test"]["notes"].append(visible(line))
    return plain({**made, "per_class": per_class, "confused": _confused(total, classes), "worst": worst})


def _key(data: Any) -> str:
    """Return the name of the array that holds the class of each pixel."""
    return next(key for key in KEYS if key in data.example())


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _counts(loaded: TrainedRun, data: Any, classes: int, batch_size: int) -> np.ndarray:
    """Return the pixels by true and predicted class of each row, `[N, K, K]`."""
    key = _key(data)

    def counted(variables: Any, batch: Mapping[str, Any]) -> Any:
        best = loaded.task.predict(variables, batch).argmax(-1)
        true = batch[key].astype(jnp.int32).reshape(best.shape)
        pair = jnp.where((true >= 0) & (true < classes), true * classes + best, classes**2)
        one = jnp.arange(pair.shape[0])[:, None] * (classes**2 + 1) + pair.reshape(pair.shape[0], -1)
        flat = jnp.zeros(pair.shape[0] * (classes**2 + 1), jnp.int32).at[one.reshape(-1)].add(1)
        return flat.reshape(pair.shape[0], -1)[:, :-1].reshape(-1, classes, classes)

    counted.check = getattr(loaded.task.predict, "check", lambda rows: None)
    return np.asarray(collect(counted, loaded.variables, data, batch_size=min(batch_size, data.size))[0], np.int64)


def _confused(total: np.ndarray, classes: list[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that share the most wrong pixels."""
    off = total - np.diag(total.diagonal())
    order = np.argsort(-off, axis=None, kind="stable")[:PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    return [{"true": classes[i], "predicted": classes[j], "share": float(off[i, j] / total[i].sum())} for i, j in pairs]


def _drawn(loaded: TrainedRun, rows: Rows, order: list[int], scores: np.ndarray) -> list[dict[str, Any] | None]:
    """Draw the truth and the prediction over each of these rows."""
    run, found = jax.jit(loaded.task.predict), dict[int, dict[str, Any]]()
    colours, names = drawing.palette(len(loaded.config["classes"])), getattr(rows.data, "names", None)
    seen, key = 0, _key(rows.data)
    for chunk in rows.data.once(min(32, rows.data.size)):
        for k in range(int(chunk.count)):
            batch = chunk.at(k)
            true = np.flatnonzero(np.asarray(batch["row_mask"]) > 0)
            here = [i for i in order if seen <= i < seen + len(true)]
            for i in here:
                image, mask = (np.asarray(batch[name][true[i - seen]]) for name in ("image", key))
                best = np.asarray(run(loaded.variables, {"image": image[None]}))[0].argmax(-1)
                if mask.ndim == 3:
                    image, mask, best = _slice(image, mask, best)
                pair = (drawing.overlay(image, mask, colours=colours),
                        drawing.overlay(image, best, true=mask, colours=colours))  # fmt: skip
                found[i] = {
                    "row": i, "iou": _known(scores[i]), "true": picture(pair[0], SIDE),
                    "predicted": picture(pair[1], SIDE),
                } | ({"file": names[i]} if names and len(names) == len(scores) else {})  # fmt: skip
            seen += len(true)
    return [found.get(i) for i in order]


def _slice(image: np.ndarray, mask: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the slice of a volume with the most wrong voxels, the front of the body above."""
    known = (mask < 255) & (mask != best)
    at = int(known.sum((1, 2)).argmax())
    return image[at, ::-1], mask[at, ::-1], best[at, ::-1]


def classes(report: Mapping[str, Any]) -> str:
    """Return the scores of the classes as HTML."""
    keys = ("pixels", "iou", "dice", "precision", "recall")
    rows = [(escape(r["class"]), *(number(k, r[k]) for k in keys)) for r in report["per_class"]]
    out = table("Each class over all pixels", ("class", "share of pixels", "IoU", "Dice", *keys[3:]), rows)
    pairs = [(escape(r["true"]), escape(r["predicted"]), f"{r['share']:.4f}") for r in report["confused"]]
    if pairs:
        head = ("true class", "predicted", "share of the true class")
        out += f"<details><summary>The most frequent confusions</summary>{table('Pixels', head, pairs, (1,))}</details>"
    return out


def worst(report: Mapping[str, Any]) -> str:
    """Return the images with the lowest scores as HTML."""
    items = ""
    for one in report["worst"]:
        place = escape(one["file"]) if "file" in one else f"row {one['row']}"
        pair = "".join(
            f'<img src="{escape(one[kind])}" alt="{about} of {place}">'
            for kind, about in (("true", "true classes"), ("predicted", "predicted classes"))
        )
        items += f"<li>{pair}<br>IoU {number('iou', one['iou'])}, {place}</li>"
    about = "The test images with the lowest IoU: true classes, then predicted ones, with a line around what is wrong."
    return f'<p>{about}</p><ul class="pictures wide">{items}</ul>' if items else "<p>There are none.</p>"
