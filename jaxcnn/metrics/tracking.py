"""Scores of tracks: MOTA and MOTP (Bernardin and Stiefelhagen, 2008), IDF1 (Ristani et al., 2016, arXiv:1609.01775)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxcnn.core.types import InputError, check_numbers
from jaxcnn.metrics.detection import box_iou

Frame = tuple[np.ndarray, np.ndarray]  # numbers of tracks [N], boxes [N, 4] yxyx
FORBIDDEN = 1e6  # cost of a pair that must not be matched


class TrackScores(NamedTuple):
    """Scores of a video, or of several together.

    Attributes:
        mota: 1 - (misses + false_positives + switches) / objects; NaN without objects, and below 0 for many mistakes.
        motp: mean overlap (IoU) of matched boxes; NaN without matches.
        idf1: share of boxes whose track is the one that was assigned to the object over the whole video, as an F-score.
        id_precision: the same as a share of the boxes that were found.
        id_recall: the same as a share of the true boxes.
        misses: true boxes without a match.
        false_positives: found boxes without a match.
        switches: matches of an object with another track than at its match before.
        objects: true boxes.
        found: boxes that were found.

    """

    mota: float
    motp: float
    idf1: float
    id_precision: float
    id_recall: float
    misses: int
    false_positives: int
    switches: int
    objects: int
    found: int


def track_scores(
    truth: Sequence[Sequence[Frame]], found: Sequence[Sequence[Frame]], iou_threshold: float = 0.5
) -> TrackScores:
    """Score the tracks of videos.

    In each frame, a pair that was matched in an earlier frame stays matched while both are there and overlap enough;
    the others are matched so that most pairs match, and of those choices the one with the largest overlap. For IDF1,
    each object of a video gets at most one track, so that most boxes agree.

    Args:
        truth: videos of frames of `(ids, boxes)`: integers `[N]`, each once in a frame, and boxes `[N, 4]`, yxyx in any
            unit. Numbers of different videos have nothing to do with each other.
        found: the same of the tracks that were found.
        iou_threshold: least overlap of a match, in (0, 1].

    Raises:
        InputError: numbers of videos or frames differ, a number occurs twice in a frame, shapes do not fit, a box is
            not finite or ends before it begins, or the threshold is out of range.

    References:
        Bernardin and Stiefelhagen, Evaluating Multiple Object Tracking Performance, 2008, doi:10.1155/2008/246309.
        Ristani et al., Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking, 2016.

    """
    check_numbers(iou_threshold=iou_threshold)
    if not 0 < iou_threshold <= 1:
        raise InputError(f"iou_threshold={iou_threshold}: must be above 0 and at most 1")
    if len(truth) != len(found):
        raise InputError(f"{len(truth)} true videos and {len(found)} found: must be as many")
    counts = np.zeros(6)  # misses, false positives, switches, matches, overlaps, boxes whose identity is right
    objects = boxes = 0
    for video, (true, tracks) in enumerate(zip(truth, found, strict=True)):
        if len(true) != len(tracks):
            raise InputError(f"video {video}: {len(true)} true frames and {len(tracks)} found: must be as many")
        here = [_checked(frame, f"video {video}, true frame {i}") for i, frame in enumerate(true)]
        there = [_checked(frame, f"video {video}, found frame {i}") for i, frame in enumerate(tracks)]
        overlaps = [box_iou(b, d) for (_, b), (_, d) in zip(here, there, strict=True)]
        counts += [*_events(here, there, overlaps, iou_threshold), _identities(here, there, overlaps, iou_threshold)]
        objects += sum(len(ids) for ids, _ in here)
        boxes += sum(len(ids) for ids, _ in there)
    misses, false, switches, matches, overlap, right = counts
    return TrackScores(
        mota=_share(objects - misses - false - switches, objects), motp=_share(overlap, matches),
        idf1=_share(2 * right, objects + boxes), id_precision=_share(right, boxes), id_recall=_share(right, objects),
        misses=int(misses), false_positives=int(false), switches=int(switches), objects=objects, found=boxes,
    )  # fmt: skip


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _checked(frame: Frame, where: str) -> Frame:
    ids, boxes = np.asarray(frame[0]), np.asarray(frame[1], np.float64)
    boxes = boxes.reshape(0, 4) if not boxes.size else boxes
    if ids.ndim != 1 or boxes.shape != (len(ids), 4):
        raise InputError(f"{where}: ids of shape {ids.shape} and boxes of shape {boxes.shape}: must be [N] and [N, 4]")
    if len(ids) and not np.issubdtype(ids.dtype, np.integer):
        raise InputError(f"{where}: ids of dtype {ids.dtype}: must be integers")
    if len(np.unique(ids)) < len(ids):
        values, counts = np.unique(ids, return_counts=True)
        raise InputError(f"{where}: id {values[counts.argmax()]} occurs {counts.max()} times; must occur once")
    if not np.isfinite(boxes).all():
        raise InputError(f"{where}: a box has NaN or infinity; leave it out")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise InputError(f"{where}: a box ends before it begins; give corners, not a place and a size")
    return ids, boxes


def _events(
    here: Sequence[Frame], there: Sequence[Frame], overlaps: Sequence[np.ndarray], least: float
) -> tuple[int, int, int, int, float]:
    """Return misses, false positives, switches, matches, and the sum of the overlaps of matches."""
    misses = false = switches = matches = 0
    total, last = 0.0, {}  # the track of each object at its last match
    for (ids, _), (tracks, _), iou in zip(here, there, overlaps, strict=True):
        where = {int(track): j for j, track in enumerate(tracks)}
        pairs: dict[int, int] = {}
        for i, one in enumerate(ids.tolist()):
            j = where.get(last.get(one, -1)) if one in last else None
            if j is not None and j not in pairs.values() and iou[i, j] >= least:
                pairs[i] = j
        free = (
            [i for i in range(len(ids)) if i not in pairs],
            [j for j in range(len(tracks)) if j not in pairs.values()],
        )
        pairs |= {free[0][i]: free[1][j] for i, j in matched(iou[np.ix_(*free)], least)}
        for i, j in pairs.items():
            one, track = int(ids[i]), int(tracks[j])
            switches += last.get(one, track) != track
            last[one] = track
            total += float(iou[i, j])
        matches += len(pairs)
        misses += len(ids) - len(pairs)
        false += len(tracks) - len(pairs)
    return misses, false, switches, matches, total


def matched(iou: np.ndarray, least: float) -> list[tuple[int, int]]:
    """Match rows and columns that overlap by `least`: as many pairs as possible, and of these the largest overlap.

    Args:
        iou: overlaps `[N, M]`.
        least: of a pair.

    """
    from scipy.optimize import linear_sum_assignment

    if not iou.size:
        return []
    rows, columns = linear_sum_assignment(np.where(iou >= least, 1 - iou, FORBIDDEN))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if iou[i, j] >= least]


def _identities(here: Sequence[Frame], there: Sequence[Frame], overlaps: Sequence[np.ndarray], least: float) -> int:
    """Return how many boxes agree when each object has at most one track, the best for all together."""
    from scipy.optimize import linear_sum_assignment

    ids, tracks = (np.unique(np.concatenate([x for x, _ in part] or [[]])) for part in (here, there))
    together = np.zeros((len(ids), len(tracks)), int)
    for (one, _), (track, _), iou in zip(here, there, overlaps, strict=True):
        i, j = np.nonzero(iou >= least)
        np.add.at(together, (np.searchsorted(ids, one[i]), np.searchsorted(tracks, track[j])), 1)
    return int(together[linear_sum_assignment(-together)].sum())
