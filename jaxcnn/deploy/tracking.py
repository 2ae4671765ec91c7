"""Tracking by detection: SORT (Bewley et al., 2016, arXiv:1602.00763), a Kalman filter of constant velocity per track.

In each frame, tracks move on as they did before, boxes are assigned to them by overlap (Kuhn, 1955), a box that
overlaps no track begins one, and a track without a box for too long ends. The noise levels are those of the paper's
program, in pixels. Everything is a function of what was known before and the boxes of a frame.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.metrics.detection import box_iou
from jaxcnn.metrics.tracking import Frame, matched

SIZE, SEEN = 7, 4  # numbers in a state: y, x, area, width / height, and the changes of the first three; those measured
MOVE = np.eye(SIZE) + np.eye(SIZE, k=SEEN)  # of a state from frame to frame
LOOK = np.eye(SEEN, SIZE)  # what a box shows of a state
BEGIN = np.diag([10.0] * SEEN + [1e4] * 3)  # covariance of a new track, whose velocity is unknown
DRIFT = np.diag([1.0] * SEEN + [1e-2, 1e-2, 1e-4])  # what a frame adds to it
BLUR = np.diag([1.0, 1.0, 10.0, 10.0])  # covariance of a box
MOST = 10_000  # boxes of a frame


class Tracks(NamedTuple):
    """The tracks of a video up to a frame.

    Attributes:
        mean: states `[N, 7]`: centre y and x, area, width / height, and the change per frame of the first three.
        covariance: of each state, `[N, 7, 7]`.
        ids: numbers of the tracks `[N]`, from 1.
        hits: frames in a row with a box, `[N]`.
        missed: frames since the last box, `[N]`.
        frame: number of frames so far.
        next_id: number of the next track.

    """

    mean: np.ndarray
    covariance: np.ndarray
    ids: np.ndarray
    hits: np.ndarray
    missed: np.ndarray
    frame: int = 0
    next_id: int = 1


def begin() -> Tracks:
    """Return no tracks, before the first frame."""
    none = np.zeros(0, np.int64)
    return Tracks(np.zeros((0, SIZE)), np.zeros((0, SIZE, SIZE)), none, none, none)


def predict(mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move states `[N, 7]` and their covariances `[N, 7, 7]` to the next frame (Kalman, 1960)."""
    shrinking = mean[:, 2] + mean[:, 6] <= 0  # an area must stay above 0
    mean = np.where(shrinking[:, None] & (np.arange(SIZE) == 6), 0, mean)
    return mean @ MOVE.T, MOVE @ covariance @ MOVE.T + DRIFT


def correct(mean: np.ndarray, covariance: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correct states by what was measured.

    Args:
        mean: states `[N, 7]`.
        covariance: `[N, 7, 7]`.
        seen: `[N, 4]`, the first four numbers of the states.

    """
    spread = LOOK @ covariance @ LOOK.T + BLUR
    gain = np.linalg.solve(spread, LOOK @ covariance).swapaxes(1, 2)  # [N, 7, 4]; both matrices are symmetric
    mean = mean + (gain @ (seen - mean @ LOOK.T)[..., None])[..., 0]
    left = np.eye(SIZE) - gain @ LOOK
    return mean, left @ covariance @ left.swapaxes(1, 2) + gain @ BLUR @ gain.swapaxes(1, 2)


def measured(boxes: np.ndarray) -> np.ndarray:
    """Turn boxes yxyx `[N, 4]` into centre y and x, area, and width / height."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([boxes[:, :2] + sides / 2, sides.prod(1), sides[:, 1] / sides[:, 0]])


def boxes_of(mean: np.ndarray) -> np.ndarray:
    """Turn states `[N, 7]`, or their first four numbers, into boxes yxyx `[N, 4]`."""
    area, ratio = np.maximum(mean[:, 2], 1e-9), np.maximum(mean[:, 3], 1e-9)
    half = np.sqrt(np.column_stack([area / ratio, area * ratio])) / 2
    return np.concatenate([mean[:, :2] - half, mean[:, :2] + half], 1)


def update(
    tracks: Tracks,
    boxes: np.ndarray,
    *,
    iou_threshold: float = 0.3,
    max_missed: int = 1,
    min_hits: int = 3,
    report_missed: bool = False,
) -> tuple[Tracks, Frame]:
    """Take the boxes of the next frame.

    Args:
        tracks: what `begin` or the last `update` returned.
        boxes: `[N, 4]`, yxyx in pixels.
        iou_threshold: least overlap of a box with the predicted box of its track, in [0, 1].
        max_missed: a track ends when it has had no box for more frames than this.
        min_hits: boxes in a row after which a track is reported; in the first `min_hits` frames of a video, at once.
        report_missed: report a track at its predicted place where it has no box, once it has been reported.

    Returns:
        The tracks, and what is reported of the frame: the numbers of tracks `[M]` and their boxes `[M, 4]`.

    Raises:
        InputError: a box is not finite or has no area, or a value is out of range.

    """
    boxes = _checked(boxes, iou_threshold, max_missed, min_hits)
    mean, covariance = predict(tracks.mean, tracks.covariance)
    hits, missed = tracks.hits.copy(), tracks.missed + 1
    pairs = matched(box_iou(boxes_of(mean), boxes), max(iou_threshold, 1e-9))
    mine, theirs = (np.array([pair[i] for pair in pairs], int) for i in range(2))
    new, seen = np.setdiff1d(np.arange(len(boxes)), theirs), measured(boxes)
    mean[mine], covariance[mine] = correct(mean[mine], covariance[mine], seen[theirs])
    hits[mine], missed[mine] = hits[mine] + 1, 0
    known = hits >= min_hits
    hits = np.where((missed > 0) & ~(report_missed & known), 0, hits)
    count, frame = len(new), tracks.frame + 1
    after = Tracks(
        np.concatenate([mean, np.pad(seen[new], ((0, 0), (0, SIZE - SEEN)))]),
        np.concatenate([covariance, np.broadcast_to(BEGIN, (count, SIZE, SIZE))]),
        np.concatenate([tracks.ids, tracks.next_id + np.arange(count)]), np.concatenate([hits, np.ones(count, int)]),
        np.concatenate([missed, np.zeros(count, int)]), frame, tracks.next_id + count,
    )  # fmt: skip
    shown = (after.hits >= min_hits) | (frame <= min_hits)
    shown &= (after.missed == 0) | (report_missed & (after.missed <= max_missed))
    alive = after.missed <= max_missed
    kept = after._replace(**{name: getattr(after, name)[alive] for name in Tracks._fields[:5]})
    return kept, (after.ids[shown], boxes_of(after.mean[shown]))


def track(video: Iterable[np.ndarray], **options: float | bool) -> list[Frame]:
    """Follow objects through a video.

    Args:
        video: the boxes of each frame, `[N, 4]` yxyx in pixels, such as those of a detector above a score.
        **options: of `update`.

    Returns:
        For each frame, numbers of tracks `[M]` and their boxes `[M, 4]`, for `metrics.track_scores`.

    """
    tracks, found = begin(), []
    for boxes in video:
        tracks, frame = update(tracks, boxes, **options)  # pyright: ignore[reportArgumentType] (checked there)
        found.append(frame)
    return found


def _checked(boxes: np.ndarray, iou_threshold: float, max_missed: int, min_hits: int) -> np.ndarray:
    if not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold={iou_threshold}: must be in 0..1")
    if max_missed < 0 or min_hits < 1:
        raise InputError(f"max_missed={max_missed}, min_hits={min_hits}: must be at least 0 and 1")
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(0, 4) if not boxes.size else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or len(boxes) > MOST:
        raise InputError(f"boxes of shape {boxes.shape}: must be [N, 4] with at most {MOST:,} boxes")
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
        bad = boxes[~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1))][0]
        raise InputError(f"box {bad.tolist()}: must be finite and end after it begins, yxyx; leave it out")
    return boxes
