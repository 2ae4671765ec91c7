"""What the report of a detection adds: COCO's scores, curves and failures per class, and the images with most failures.

A detection counts from a score of 0.25 on, and is right if it covers a true box of its class by an IoU of at least 0.5
that no surer one covers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.files import plain
from jaxcnn.core.text import html as escape
from jaxcnn.core.text import visible
from jaxcnn.data import draw_boxes, unletterbox
from jaxcnn.metrics.detection import box_iou, coco_scores
from jaxcnn.report import svg
from jaxcnn.report.markup import number, table
from jaxcnn.report.record import images, picture
from jaxcnn.runs import Rows, TrainedRun
from jaxcnn.tasks import detected
from jaxcnn.train.evaluation import collect

LEAST, OVERLAP, NEAR = 0.25, 0.5, 0.1  # lowest score; IoU from which a box is found, and from which it is nearly
SHOWN, SIDE, POINTS, CURVES = 8, 320, 101, 8  # images and their largest side; points of a curve; curves
KINDS = ("right", "missed", "doubled", "wrong class", "wrong place", "nothing there")
Boxes = dict[str, np.ndarray]  # "boxes" [N, 4] in pixels of the file, "labels" [N], and "scores" [N] or "iscrowd" [N]


class Judged(NamedTuple):
    """Failures of one image: the kind and the class of each."""

    kinds: list[tuple[str, int]]

    @property
    def wrong(self) -> int:
        """Number of failures."""
        return sum(kind != "right" for kind, _ in self.kinds)


def finds(config: Mapping[str, Any]) -> bool:
    """Whether a run is of this library's detection."""
    return config["build"] is not None and config["build"]["task"]["name"] == "detection"


def detection(made: dict[str, Any], loaded: TrainedRun, rows: Rows, batch_size: int = 32) -> dict[str, Any]:
    """Add what single images and classes show to the report of a run.

    Args:
        made: the report, from `general`.
        loaded: the run.
        rows: the rows to measure.
        batch_size: rows per batch.

    Returns:
        The report with `"coco"`, `"boxes"` (a line per class), `"curves_pr"` and `"worst"`.

    """
    names, (guesses, truths, seen) = loaded.config["classes"], _measured(loaded, rows.data, batch_size)
    scores = coco_scores(guesses, truths)
    judged = [judge(g, t) for g, t in zip(guesses, truths, strict=True)]
    counts = {kind: np.zeros(len(names), int) for kind in KINDS}
    for one in judged:
        for kind, label in one.kinds:
            counts[kind][label] += 1
    there = np.bincount(np.concatenate([t["labels"][~t["iscrowd"]] for t in truths]), minlength=len(names))
    lines = [
        {"class": name, "count": int(there[k]), "ap": _known(scores["ap_by_class"].get(k, np.nan))}
        | {kind: int(counts[kind][k]) for kind in KINDS}
        for k, name in enumerate(names)
    ]
    order = sorted(range(len(judged)), key=lambda i: -judged[i].wrong)[:SHOWN]
    curves = [
        {"class": names[k], "points": points}
        for k in np.argsort(-there)[:CURVES]
        if (points := _pr(guesses, truths, k))
    ]
    values = {k: _known(v) for k, v in scores.items() if isinstance(v, float)}
    if not rows.own:
        line = f"Classes and examples are of other data than the other figures: {rows.name} ({rows.part})."
        made["test"]["notes"].append(visible(line))
    worst = _drawn(loaded, rows, order, seen, judged)
    return plain({**made, "coco": values, "boxes": lines, "curves_pr": curves, "worst": worst})


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _measured(
    loaded: TrainedRun, data: Any, batch_size: int
) -> tuple[list[Boxes], list[Boxes], list[tuple[Boxes, Boxes]]]:
    """Return detections and true boxes of each row in pixels of its file, and both as shares of the row."""

    def predict(variables: Any, batch: Mapping[str, Any]) -> Any:
        return detected(loaded.task.predict(variables, batch))

    predict.check = getattr(loaded.task.predict, "check", lambda rows: None)
    has = data.example()
    keep = [k for k in ("boxes", "box_label", "box_mask", "box_crowd", "image_size", "image_box") if k in has]
    out, kept = collect(predict, loaded.variables, data, keep=keep, batch_size=min(batch_size, data.size))
    count = len(out["boxes"])
    size = kept.get("image_size", np.tile(np.array(has["image"].shape[1:3]), (count, 1)))
    frame = kept.get("image_box", np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)))
    mine, true = (unletterbox(boxes, size, frame) for boxes in (out["boxes"], kept["boxes"]))
    crowd = kept.get("box_crowd", np.zeros(kept["box_label"].shape))
    guesses, truths, seen = [], [], []
    for i in range(count):
        a, b = out["box_mask"][i] > 0, kept["box_mask"][i] > 0
        labelled = {"scores": out["scores"][i][a], "labels": out["labels"][i][a]}
        guesses.append({"boxes": mine[i][a], **labelled})
        truths.append({"boxes": true[i][b], "labels": kept["box_label"][i][b], "iscrowd": crowd[i][b] > 0})
        marked = {"boxes": kept["boxes"][i][b], "box_label": kept["box_label"][i][b]}
        seen.append(({"boxes": out["boxes"][i][a], **labelled}, marked))
    return guesses, truths, seen


def judge(guess: Boxes, truth: Boxes) -> Judged:
    """Sort the detections of an image by what is wrong with them, and add the true boxes that were missed.

    Args:
        guess: `"boxes" [M, 4]`, `"scores" [M]`, `"labels" [M]`.
        truth: `"boxes" [N, 4]`, `"labels" [N]`, `"iscrowd" [N]`; crowds count in neither way.

    """
    sure = guess["scores"] >= LEAST
    order = np.argsort(-guess["scores"][sure], kind="stable")
    boxes, labels = guess["boxes"][sure][order], guess["labels"][sure][order]
    crowd = truth["iscrowd"]
    overlap = box_iou(boxes, truth["boxes"], crowd)
    taken, kinds = np.zeros(len(crowd), bool), []
    for i, label in enumerate(labels.tolist()):
        own = truth["labels"] == label
        same, other, many = (np.where(who, overlap[i], 0.0) for who in (own & ~crowd, ~own & ~crowd, own & crowd))
        free = np.where(taken, 0.0, same)
        if free.max(initial=0) >= OVERLAP:
            taken[free.argmax()] = True
            kinds.append(("right", label))
        elif many.max(initial=0) >= OVERLAP:
            continue
        elif same.max(initial=0) >= OVERLAP:
            kinds.append(("doubled", label))
        elif other.max(initial=0) >= OVERLAP:
            kinds.append(("wrong class", label))
        else:
            kinds.append(("wrong place" if same.max(initial=0) >= NEAR else "nothing there", label))
    missed = truth["labels"][~taken & ~truth["iscrowd"]]
    return Judged([*kinds, *(("missed", label) for label in missed.tolist())])


def _pr(guesses: Sequence[Boxes], truths: Sequence[Boxes], label: int) -> list[list[float]]:
    """Return recall and precision of a class as the score falls, at an IoU of 0.5; empty without true boxes."""
    right, scores, total = [], [], 0
    for guess, truth in zip(guesses, truths, strict=True):
        own, true = guess["labels"] == label, (truth["labels"] == label) & ~truth["iscrowd"]
        total += int(true.sum())
        order = np.argsort(-guess["scores"][own], kind="stable")
        boxes, taken = guess["boxes"][own][order], np.zeros(int(true.sum()), bool)
        many = truth["boxes"][(truth["labels"] == label) & truth["iscrowd"]]
        crowded = box_iou(boxes, many, np.ones(len(many), bool)).max(1, initial=0) >= OVERLAP
        for one, inside, score in zip(
            box_iou(boxes, truth["boxes"][true]), crowded, guess["scores"][own][order], strict=True
        ):
            free = np.where(taken, 0.0, one)
            hit = free.max(initial=0) >= OVERLAP
            taken[free.argmax() if hit else slice(0)] = True
            if hit or not inside:
                right.append(hit)
                scores.append(score)
    if not total or not right:
        return []
    order = np.argsort(-np.array(scores), kind="stable")
    hits = np.cumsum(np.array(right)[order])
    points = np.stack([hits / total, hits / np.arange(1, len(hits) + 1)], 1)
    keep = np.unique(np.linspace(0, len(points) - 1, min(len(points), POINTS)).astype(int))
    return points[keep].round(5).tolist()


def _drawn(
    loaded: TrainedRun, rows: Rows, order: Sequence[int], seen: Sequence[tuple[Boxes, Boxes]], judged: Sequence[Judged]
) -> list[dict[str, Any]]:
    """Draw the detections, and the true boxes dashed, over the rows that the network saw."""
    shown, names = images(rows.data, order), getattr(rows.data, "names", None)
    out = []
    for i in (i for i in order if i in shown):
        drawn = draw_boxes(shown[i], seen[i][0], loaded.config["classes"], true=seen[i][1], least_score=LEAST)
        one = {"row": i, "wrong": judged[i].wrong, "of": len(seen[i][1]["boxes"]), "image": picture(drawn, SIDE)}
        out.append(one | ({"file": names[i]} if names and len(names) == len(judged) else {}))
    return out


def classes(report: Mapping[str, Any]) -> str:
    """Return the scores and failures of the classes as HTML."""
    about = "Average precision by the rules of COCO, in pixels of the files; small, medium and large are areas of boxes"
    out = table(about, ("measure", "value"), [(escape(k), number(k, v)) for k, v in report["coco"].items()])
    rows = [
        (escape(r["class"]), f"{r['count']:,d}", number("ap", r["ap"]), *(f"{r[kind]:,d}" for kind in KINDS))
        for r in report["boxes"]
    ]
    about = f"Each class: AP, and its detections with a score of at least {LEAST} by what is wrong with them"
    out += table(about, ("class", "true boxes", "AP", *KINDS), rows)
    series = [(r["class"], r["points"]) for r in report["curves_pr"]]
    if series:
        about = f"Precision and recall at an IoU of {OVERLAP}, of the most frequent classes."
        square: dict[str, Any] = {"xlim": (0, 1), "ylim": (0, 1), "marks": False}
        drawn = svg.lines("Precision and recall", about, series, xlabel="recall", ylabel="precision", **square)
        out += f'<div class="plots">{drawn}</div>'
    return out


def worst(report: Mapping[str, Any]) -> str:
    """Return the images with the most failures as HTML."""
    items = ""
    for one in report["worst"]:
        place = escape(one["file"]) if "file" in one else f"row {one['row']}"
        items += f'<li><img src="{escape(one["image"])}" alt="boxes in {place}">'
        items += f"<br>{one['wrong']} failures, {one['of']} true boxes, {place}</li>"
    about = "The test images with the most failures: detections, and the true boxes dashed."
    return f'<p>{about}</p><ul class="pictures wide one">{items}</ul>' if items else "<p>There are none.</p>"
