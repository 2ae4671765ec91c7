"""Scores of tracks: an example worked by hand, motmetrics' numbers, and bad input."""

import json
import math
import pathlib

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.metrics import track_scores

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures/tracking.json").read_text())
A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [60, 60, 70, 70]


def frame(**boxes):
    """`a1=box` is the box of number 1."""
    ids = np.array([int(name[1:]) for name in boxes], int)
    return ids, np.array(list(boxes.values()), float).reshape(-1, 4)


def test_an_example_by_hand():
    """Two objects in four frames; their tracks change places in the third, and back in the fourth.

    Objects: 8. Found: 1 + 2 + 3 + 1 = 7. Misses: one in the first frame and one in the fourth. False alarms: one in the
    third. Switches: both objects in the third, the first one again in the fourth. MOTA = 1 - (2 + 1 + 3) / 8. Object 1
    agrees with track 5 in frames 1, 2 and 4, object 2 with 6 in frame 2: IDF1 = 2 * 4 / (8 + 7).
    """
    truth = [frame(t1=A, t2=B)] * 4
    found = [frame(f5=A), frame(f5=A, f6=B), frame(f6=A, f5=B, f9=FAR), frame(f5=A)]
    got = track_scores([truth], [found])
    assert (got.misses, got.false_positives, got.switches, got.objects, got.found) == (2, 1, 3, 8, 7)
    assert got.mota == pytest.approx(1 - 6 / 8) and got.motp == pytest.approx(1.0)
    assert got.idf1 == pytest.approx(2 * 4 / 15)
    assert got.id_recall == pytest.approx(4 / 8) and got.id_precision == pytest.approx(4 / 7)


def test_a_match_is_kept_while_the_boxes_overlap_enough():
    """Track 6 comes closer to the object, but track 5 still covers it by more than a half."""
    shifted = [0, 3, 10, 13]  # overlap 70 / 130
    truth = [frame(t1=A), frame(t1=A)]
    found = [frame(f5=A), frame(f5=shifted, f6=A)]
    got = track_scores([truth], [found])
    assert got.switches == 0 and got.false_positives == 1 and got.motp == pytest.approx((1 + 70 / 130) / 2)
    assert track_scores([truth], [found], iou_threshold=0.6).switches == 1


def test_numbers_of_motmetrics():
    videos = GOLDEN["videos"]
    parts = [[[(np.array(ids, int), np.array(b)) for ids, b in one[k]] for one in videos] for k in ("truth", "found")]
    for i, golden in enumerate(GOLDEN["alone"]):
        got = track_scores([parts[0][i]], [parts[1][i]])._asdict()
        assert got == pytest.approx(golden, rel=1e-9)
    together = track_scores(*parts)._asdict()
    assert together == pytest.approx(GOLDEN["together"], rel=1e-9)
    assert any(one["switches"] for one in GOLDEN["alone"])


def test_videos_without_objects_have_no_score():
    got = track_scores([[frame()]], [[frame()]])
    assert all(math.isnan(x) for x in (got.mota, got.motp, got.idf1)) and got.objects == 0
    assert track_scores([[frame()]], [[frame(f1=A)]]).false_positives == 1
    assert track_scores([[frame(t1=A)]], [[frame()]]).mota == 0.0


@pytest.mark.parametrize(
    "truth, found, options, line",
    [
        ([[frame()]], [], {}, "1 true videos and 0 found: must be as many"),
        ([[frame()]], [[]], {}, "video 0: 1 true frames and 0 found: must be as many"),
        ([[(np.array([1, 1]), np.array([A, B]))]], [[frame()]], {}, "video 0, true frame 0: id 1 occurs 2 times"),
        ([[frame()]], [[(np.array([1]), np.array([A, B]))]], {}, r"found frame 0: ids of shape \(1,\) and boxes of sh"),
        ([[frame()]], [[(np.array([1.5]), np.array([A]))]], {}, "ids of dtype float64: must be integers"),
        ([[frame(t1=[0, 0, np.nan, 1])]], [[frame()]], {}, "true frame 0: a box has NaN or infinity"),
        ([[frame(t1=[9, 9, 5, 5])]], [[frame()]], {}, "true frame 0: a box ends before it begins"),
        ([], [], {"iou_threshold": 0.0}, "iou_threshold=0.0: must be above 0 and at most 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(truth, found, options, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        track_scores(truth, found, **options)
    assert "\n" not in str(caught.value)
