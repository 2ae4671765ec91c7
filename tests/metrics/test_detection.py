"""Boxes are scored as pycocotools scores them; bad boxes are refused."""

import importlib.util
import json

import numpy as np
import pytest

from jaxcnn.core.types import InputError
from jaxcnn.metrics import box_iou, coco_scores
from tests.fixtures import make_detection as fixture

EMPTY = {"boxes": [], "scores": [], "labels": []}


def twelve(predictions, truths):
    scores = coco_scores(predictions, truths)
    return np.array([scores[name] for name in fixture.NAMES])


def test_200_cases_equal_pycocotools():
    expected = json.loads(fixture.FILE.read_text())
    assert len(expected) == fixture.CASES == 200
    for seed, row in enumerate(expected):
        np.testing.assert_allclose(
            twelve(*fixture.make_case(seed)), np.array(row, float), rtol=0, atol=1e-9, err_msg=str(seed)
        )


def test_pycocotools_itself_says_so():
    pytest.importorskip("pycocotools")
    for seed in range(0, fixture.CASES, 10):
        case = fixture.make_case(seed)
        np.testing.assert_allclose(twelve(*case), fixture.by_pycocotools(*case), rtol=0, atol=1e-9)


def test_by_hand():
    """Two objects: the first box is exact, the second overlaps by 0.6, so it is right up to a threshold of .6."""
    truths = [{"boxes": [[0, 0, 10, 10], [20, 20, 30, 30]], "labels": [4, 4]}]
    found = [{"boxes": [[0, 0, 10, 10], [20, 20, 30, 26]], "scores": [0.9, 0.8], "labels": [4, 4]}]
    scores = coco_scores(found, truths)
    half = 51 / 101  # recalls 0 to .5 of 101
    assert scores["ap50"] == pytest.approx(1) and scores["ap75"] == pytest.approx(half)
    assert scores["ap"] == scores["ap_by_class"][4] == pytest.approx((3 + 7 * half) / 10)
    assert (scores["ar1"], scores["ar100"]) == pytest.approx((0.5, (3 + 7 * 0.5) / 10))
    assert scores["ap_small"] == scores["ap"] and np.isnan(scores["ap_large"])


def test_nothing_found_is_0_and_nothing_to_find_is_nan():
    truth = {"boxes": [[0, 0, 50, 50]], "labels": [1]}
    nothing = coco_scores([EMPTY], [truth])
    assert nothing["ap"] == nothing["ar100"] == nothing["ap_medium"] == 0 and np.isnan(nothing["ap_small"])
    assert np.isnan(twelve([{**truth, "scores": [0.5]}], [EMPTY])).all() and np.isnan(twelve([], [])).all()


@pytest.mark.parametrize("second, expected", [([0, 0, 10, 10], 1.0), ([4, 0, 14, 10], 51 / 101)])
def test_of_equal_overlaps_the_last_is_taken(second, expected):
    """As in pycocotools, a guess between two objects leaves the first of them for the second guess."""
    truths = [{"boxes": [[0, 0, 10, 10], [4, 0, 14, 10]], "labels": [1, 1]}]
    found = [{"boxes": [[2, 0, 12, 10], second], "scores": [0.9, 0.8], "labels": [1, 1]}]
    assert coco_scores(found, truths)["ap50"] == pytest.approx(expected)
    if fixture_can_compare():
        arrays = [
            {key: np.asarray(x, float if key != "labels" else int) for key, x in image.items()}
            for image in (found[0], truths[0])
        ]
        assert fixture.by_pycocotools(arrays[:1], arrays[1:])[1] == pytest.approx(expected)


def fixture_can_compare():
    return importlib.util.find_spec("pycocotools") is not None


def test_overlap():
    a, b = np.array([[0.0, 0, 4, 4], [2, 2, 2, 2]]), np.array([[2.0, 2, 6, 6], [0, 0, 4, 4], [9, 9, 10, 10]])
    np.testing.assert_allclose(box_iou(a, b), [[4 / 28, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(box_iou(a, b, np.array([True, False, False]))[0], [4 / 16, 1, 0])


@pytest.mark.parametrize(
    "prediction, truth, message",
    [
        ({}, {}, "has no 'boxes'"),
        ({"boxes": [[0, 0, 1]], "scores": [1], "labels": [1]}, EMPTY, r"predictions\[0\]: 'boxes' has shape \(1, 3\)"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [1, 2], "labels": [1]}, EMPTY, r"'scores' has shape \(2,\) for 1 boxes"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [np.nan], "labels": [1]}, EMPTY, "1 numbers in 'scores' are not finite"),
        ({"boxes": [[0, 0, 1, 1]], "scores": [1], "labels": [1.5]}, EMPTY, "'labels' have dtype float64"),
        (
            EMPTY,
            {"boxes": [[5, 0, 1, 1]], "labels": [1]},
            r"truths\[0\]: the box \[5.0, 0.0, 1.0, 1.0\] ends before it begins",
        ),
    ],
)
def test_bad_boxes(prediction, truth, message):
    with pytest.raises(InputError, match=message):
        coco_scores([prediction], [truth])


def test_another_number_of_images():
    with pytest.raises(InputError, match="predictions for 1 images, truths for 2"):
        coco_scores([EMPTY], [EMPTY, EMPTY])
