"""Overlap of regions against their definitions, distances of surfaces against brute force, and the Rand F-score."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError
from jaxcnn.metrics import components, hausdorff95, overlap, rand_fscore


def test_overlap_is_that_of_sets(rng):
    label, guess = rng.integers(0, 4, (3, 6, 7)), rng.integers(0, 3, (3, 6, 7))
    label[label == 3] = 255  # unknown; class 3 occurs nowhere
    logits = np.eye(4)[guess]
    mask = np.array([1.0, 1, 0])
    parts = [
        overlap(4)(jnp.asarray(logits[i]), {"label": jnp.asarray(label[i]), "row_mask": jnp.asarray(mask[i])})
        for i in (slice(0, 1), slice(1, 3))
    ]
    values = parts[0]._replace(counts=parts[0].counts + parts[1].counts).compute()
    truth, found = label[:2], guess[:2]
    known = truth != 255
    iou, dice = [], []
    for k in range(3):
        a, b = (truth == k) & known, (found == k) & known
        iou.append((a & b).sum() / (a | b).sum())
        dice.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    np.testing.assert_allclose(values["iou_per_class"], [*iou, np.nan])
    np.testing.assert_allclose(values["dice_per_class"], [*dice, np.nan])
    assert values["iou"] == pytest.approx(np.mean(iou)) and values["dice"] == pytest.approx(np.mean(dice))


def test_a_prediction_that_is_nan_makes_it_nan():
    logits = jnp.full((1, 2, 2, 2), jnp.nan)
    values = overlap(2)(logits, {"label": jnp.zeros((1, 2, 2), jnp.int32)}).compute()
    assert np.isnan(values["iou"]) and np.isnan(values["dice_per_class"]).all()


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_hausdorff_is_the_largest_distance_of_a_surface(rng, spacing):
    scale = np.array(spacing or (1, 1))

    def surface(region):
        padded = np.pad(region, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        return np.argwhere(region & ~inner) * scale

    for _ in range(20):
        a, b = (rng.random((7, 9)) < p for p in (0.3, 0.5))
        x, y = surface(a), surface(b)
        distance = np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))
        for percent in (100, 95):
            want = max(np.percentile(distance.min(1), percent), np.percentile(distance.min(0), percent))
            assert hausdorff95(a, b, spacing=spacing, percent=percent) == pytest.approx(want)


def test_hausdorff_of_nothing():
    empty, one = np.zeros((3, 3), bool), np.eye(3, dtype=bool)
    assert hausdorff95(empty, empty) == 0 and hausdorff95(empty, one) == hausdorff95(one, empty) == float("inf")


def test_rand_is_over_pairs_of_pixels(rng):
    for _ in range(10):
        found, true = rng.integers(0, 4, (5, 6)), rng.integers(0, 3, (5, 6))
        inside = true.ravel() > 0
        a, b = found.ravel()[inside], true.ravel()[inside]
        same = [(x[:, None] == x[None]) for x in (a, b)]
        want = 2 * (same[0] & same[1]).sum() / (same[0].sum() + same[1].sum())
        assert rand_fscore(found, true) == pytest.approx(want)
    assert rand_fscore(true, true) == 1 and np.isnan(rand_fscore(true, np.zeros_like(true)))


def test_components_are_numbered():
    assert sorted(np.unique(components([[1, 1, 0, 1], [0, 0, 0, 1]]))) == [0, 1, 2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: hausdorff95(np.zeros((2, 2)), np.zeros((2, 3))), "must be the same"),
        (lambda: hausdorff95(np.ones((2, 2)), np.ones((2, 2)), spacing=(1,)), "must be 2 positive numbers"),
        (lambda: hausdorff95(np.ones((2, 2)), np.ones((2, 2)), percent=101), "percent=101"),
        (lambda: hausdorff95(np.ones((2, 2)), np.ones((2, 2)), percent=0.95), "95 and not 0.95"),
        (lambda: hausdorff95(np.ones((2, 2)), np.ones((2, 2)), spacing=2.0), "must be 2 positive numbers"),
        (lambda: hausdorff95(np.ones((2, 2)), np.ones((2, 2)), spacing=(np.nan, 1)), "must be 2 positive numbers"),
        (lambda: hausdorff95(np.array([[0.1, 0.9]]), np.ones((1, 2))), "region float64: must be bool"),
        (lambda: components(np.array([[1, 2, 0]])), "0 and one other value"),
        (lambda: components(np.full((2, 2), 0.7)), "region float64: must be bool"),
        (lambda: rand_fscore(np.zeros((2, 2), int), np.zeros((2, 3), int)), "must be the same"),
        (lambda: rand_fscore(np.full((2, 2), 0.5), np.ones((2, 2), int)), "predicted float64: must be object numbers"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call()
