"""What detectors add: non-maximum suppression and RoIAlign."""

from typing import Any

import numpy as np

from jaxcnn.deploy.onnx.elementwise import Rule
from jaxcnn.deploy.onnx.graph import Graph, Value

INT64, INT32, FLOAT = 7, 6, 1  # element types


def _nms(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Suppress per class: a row of scores for each class, in which boxes of other classes are out of the race.

    NonMaxSuppression returns triples of image, class and box. Kept boxes get their scores back by their places, and the
    best of all classes are taken.
    """
    p, out = eqn.params, eqn.outvars[0].aval
    boxes, scores, kinds = values
    if not p["mapped"]:
        boxes, scores, kinds = (_first(g, x) for x in values)
    most, count = int(p["number"]), int(scores.shape[-1])
    box, score, kind = g.tensor(boxes), g.tensor(scores), g.tensor(kinds)
    by_class = _per_class(g, score, kind)
    limit = np.float32(p["score_threshold"]) if np.isfinite(p["score_threshold"]) else np.finfo(np.float32).min
    numbers = (g.store([most], np.int64), *(g.store([x], np.float32) for x in (p["iou_threshold"], limit)))
    triples = g.emit("NonMaxSuppression", box, by_class, *numbers)
    kept = g.emit("Gather", triples, g.store([0, 2], np.int64), axis=1)
    empty = g.emit("Expand", g.store(np.float32(-np.inf)), g.emit("Shape", score))
    left = g.emit("ScatterND", empty, kept, g.emit("GatherND", score, kept))
    best, index = g.several("TopK", left, g.store([min(most, count)], np.int64), outputs=2, axis=-1, largest=1)
    index = g.emit("Cast", index, to=INT32)
    if most > count:
        pads = g.store([0, 0, 0, most - count], np.int64)
        best = g.emit("Pad", best, pads, g.store(np.float32(-np.inf)), mode="constant")
        index = g.emit("Pad", index, pads, g.store(np.int32(0)), mode="constant")
    if not p["mapped"]:
        best, index = (g.emit("Squeeze", x, g.store([0], np.int64)) for x in (best, index))
    return [g.made(index, out), g.made(best, eqn.outvars[1].aval)]


def _first(g: Graph, x: Value) -> Value:
    like = type("Like", (), {"shape": (1, *x.shape), "dtype": x.dtype})
    return g.made(g.emit("Unsqueeze", g.tensor(x), g.store([0], np.int64)), like)


def _per_class(g: Graph, score: str, kind: str) -> str:
    """Return scores `[B, classes, N]`, -inf where a box is of another class; the classes are those that occur."""
    top = g.emit("ReduceMax", kind, keepdims=0)
    after = g.emit("Add", top, g.store(np.int32(1)))
    numbers = g.emit("Range", g.store(np.int32(0)), after, g.store(np.int32(1)))
    numbers = g.emit("Unsqueeze", numbers, g.store([0, 2], np.int64))  # [1, classes, 1]
    middle = g.store([1], np.int64)
    same = g.emit("Equal", numbers, g.emit("Unsqueeze", kind, middle))
    return g.emit("Where", same, g.emit("Unsqueeze", score, middle), g.store(np.float32(-np.inf)))


def _roi_align(g: Graph, eqn: Any, values: list[Value]) -> list[Value]:
    """Sample every box from every level, and take the level that it belongs to.

    ONNX has zeros more than a pixel outside a map, where ours repeat its border, so a border is repeated once.
    """
    p, out = eqn.params, eqn.outvars[0].aval
    (boxes, level, *maps), count = values, int(values[0].shape[1])
    if p["mapped"]:
        raise ValueError("roi_align under vmap")
    flat = g.emit("Reshape", g.tensor(boxes), g.store([-1, 4], np.int64))
    order = g.emit("Gather", flat, g.store([1, 0, 3, 2], np.int64), axis=1)  # xyxy
    rows = g.emit("Shape", g.tensor(maps[0]))
    rows = g.emit("Gather", rows, g.store(np.int64(0)), axis=0)
    image = g.emit("Range", g.store(np.int64(0)), rows, g.store(np.int64(1)))
    image = g.emit("Expand", g.emit("Unsqueeze", image, g.store([1], np.int64)), g.store([1, count], np.int64))
    image = g.emit("Reshape", image, g.store([-1], np.int64))
    which = g.emit("Reshape", g.tensor(level), g.store([-1, 1, 1, 1], np.int64))
    height, width = p["cells"]
    total = ""
    for i, x in enumerate(maps):
        high, wide = (float(n) for n in x.shape[1:3])
        scaled = g.emit("Mul", order, g.store([wide, high, wide, high], np.float32))
        bordered = g.emit("Pad", g.tensor(x, (0, 3, 1, 2)), g.store([0, 0, 0, 0, 0, 0, 1, 1], np.int64), mode="edge")
        found = g.emit(
            "RoiAlign", bordered, scaled, image, output_height=height, output_width=width,
            sampling_ratio=p["samples"], spatial_scale=1.0, mode="avg",
            coordinate_transformation_mode="half_pixel" if p["aligned"] else "output_half_pixel",
        )  # fmt: skip
        here = g.emit("Equal", which, g.store(np.asarray(i, level.dtype)))
        total = g.emit("Where", here, found, total) if total else found
    shape = [out.shape[a] for a in (0, 1, 4, 2, 3)]
    return [g.made(g.emit("Reshape", total, g.target(shape)), out, (0, 1, 4, 2, 3))]


RULES: dict[str, Rule] = {"jaxcnn_nms": _nms, "jaxcnn_roi_align_boxes": _roi_align}
