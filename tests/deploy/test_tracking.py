"""Tracking by detection: filterpy's numbers, objects that cross, births and deaths, and bad input."""

import json
import pathlib

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.deploy import tracking
from jaxcnn.metrics import track_scores

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures/tracking.json").read_text())["kalman"]


def crossing(frames=20):
    """Two objects that cross each other's way, and pass at the same place in the middle frame."""
    t = np.arange(frames)[:, None]
    places = np.stack([np.hstack([t * 3.0, t * 3.0]), np.hstack([t * 3.0, (frames - 1 - t) * 3.0])], 1)  # [T, 2, 2]
    return np.concatenate([places, places + [12, 9]], -1)


def test_the_filter_has_the_numbers_of_filterpy():
    mean = np.array([[*GOLDEN["seen"][0], 0, 0, 0]])
    covariance = tracking.BEGIN[None]
    for seen, golden in zip(GOLDEN["seen"][1:], GOLDEN["states"], strict=True):
        mean, covariance = tracking.predict(mean, covariance)
        np.testing.assert_allclose(mean[0], golden["predicted"], rtol=1e-9)
        if seen is not None:
            mean, covariance = tracking.correct(mean, covariance, np.array([seen]))
        np.testing.assert_allclose(mean[0], golden["mean"], rtol=1e-9)
        np.testing.assert_allclose(covariance[0], golden["covariance"], rtol=1e-7, atol=1e-9)


def test_boxes_and_states_are_inverse():
    boxes = np.array([[1.0, 2, 5, 9], [-3, 0, 1, 30]])
    np.testing.assert_allclose(tracking.boxes_of(tracking.measured(boxes)), boxes)


def test_objects_that_cross_keep_their_numbers():
    video = crossing()
    order = np.random.default_rng(0).integers(0, 2, len(video))
    found = tracking.track([boxes[::-1] if o else boxes for boxes, o in zip(video, order, strict=True)])
    truth = [(np.array([1, 2]), boxes) for boxes in video]
    got = track_scores([truth], [found])
    assert got.mota == 1.0 and got.switches == 0 and got.idf1 == 1.0
    named = [(np.array([1, 2]), boxes[::-1] if o else boxes) for boxes, o in zip(video, order, strict=True)]
    nearest = track_scores([truth], [named])
    assert nearest.idf1 < 0.8  # the numbers of the order alone


def test_tracks_begin_after_hits_and_end_without_boxes():
    boxes = crossing()
    video = [boxes[t, :1] if t < 6 else boxes[t] for t in range(12)] + [boxes[t, :1] for t in range(12, 16)]
    found = tracking.track(video, min_hits=3, max_missed=1)
    numbers = [ids.tolist() for ids, _ in found]
    assert numbers[:8] == [[1]] * 8 and numbers[8:12] == [[1, 2]] * 4 and numbers[12:] == [[1]] * 4
    again = tracking.track([*video, boxes[16]], min_hits=1, max_missed=1)
    assert again[-1][0].tolist() == [1, 3]  # a new number, because the second track ended
    kept = tracking.track([*video, boxes[16]], min_hits=1, max_missed=9)
    assert kept[-1][0].tolist() == [1, 2]


def test_missed_objects_can_be_reported_where_they_are_expected():
    boxes = crossing()
    video = [x[:1] if t in (8, 9) else x for t, x in enumerate(boxes)]
    plain, filled = (
        tracking.track(video, max_missed=3, min_hits=2, report_missed=report, iou_threshold=0.1)
        for report in (False, True)
    )
    assert [len(ids) for ids, _ in plain][7:11] == [2, 1, 1, 1] or [len(ids) for ids, _ in plain][7:11] == [2, 1, 1, 2]
    assert all(ids.tolist() == [1, 2] for ids, _ in filled)
    np.testing.assert_allclose(filled[9][1][1], boxes[9, 1], atol=1.5)


def test_an_update_changes_nothing_that_it_was_given():
    tracks, _ = tracking.update(tracking.begin(), crossing()[0])
    before = [np.array(x) for x in tracks]
    tracking.update(tracks, crossing()[1])
    tracking.update(tracks, np.zeros((0, 4)))
    for old, new in zip(before, tracks, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "boxes, options, line",
    [
        ([[0, 0, 1, np.nan]], {}, r"box \[0.0, 0.0, 1.0, nan\]: must be finite and end after it begins"),
        ([[5, 5, 5, 9]], {}, r"box \[5.0, 5.0, 5.0, 9.0\]: must be finite and end after it begins"),
        ([[1, 2, 3]], {}, r"boxes of shape \(1, 3\): must be \[N, 4\]"),
        ([], {"iou_threshold": 1.5}, "iou_threshold=1.5: must be in 0..1"),
        ([], {"min_hits": 0}, "max_missed=1, min_hits=0: must be at least 0 and 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(boxes, options, line):
    with pytest.raises(jc.InputError, match=line):
        tracking.update(tracking.begin(), np.array(boxes), **options)


def test_a_frame_without_boxes_and_an_area_that_would_vanish():
    tracks, (ids, boxes) = tracking.update(tracking.begin(), np.zeros((0, 4)))
    assert ids.shape == (0,) and boxes.shape == (0, 4) and tracks.frame == 1
    shrinking = [np.array([[0, 0, s, s]], float) for s in (12, 8, 4, 1, 0.2)]
    found = tracking.track([*shrinking, np.zeros((0, 4))], max_missed=5, min_hits=1, report_missed=True)
    assert all(np.isfinite(b).all() for _, b in found) and (found[-1][1][:, 2:] > found[-1][1][:, :2]).all()
