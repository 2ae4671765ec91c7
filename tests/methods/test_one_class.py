"""One-class inspection: turns and strips, the Dirichlet fit, distances to normal features, and thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.methods import one_class


def test_the_eight_ways_differ_and_are_labelled(rng):
    image = rng.integers(0, 256, (1, 5, 5, 2)).astype(np.uint8)
    ways = np.asarray(one_class.turned(jnp.asarray(np.repeat(image, 8, 0)), np.arange(8)))
    assert len({x.tobytes() for x in ways}) == 8
    np.testing.assert_array_equal(ways[6], np.rot90(image[0, :, ::-1], 2))
    np.testing.assert_array_equal(ways[3], np.rot90(image[0], 3))
    rows = one_class.geometric()(jax.random.key(0), {"image": jnp.asarray(np.repeat(image, 32, 0))})
    assert set(np.asarray(rows["label"]).tolist()) == set(range(8))
    for x, way in zip(np.asarray(rows["image"]), np.asarray(rows["label"]), strict=True):
        np.testing.assert_array_equal(x, ways[way])


def test_strips_are_marked_and_nothing_else_changes(rng):
    image = jnp.asarray(rng.integers(0, 256, (16, 24, 24, 3)).astype(np.uint8))
    change = one_class.cut_paste(brightness=1.0)
    rows = change(jax.random.key(1), {"image": image})
    moved = (np.asarray(rows["image"]) != np.asarray(image)).any(-1)
    mask = np.asarray(rows["mask"])
    assert rows["image"].dtype == jnp.uint8 and not (moved & (mask == 0)).any()
    assert moved.sum() > 0.9 * mask.sum() > 0 and 0 < mask.any((1, 2)).mean() < 1
    twice = change(jax.random.key(2), rows)
    assert (np.asarray(twice["mask"]) >= mask).all() and np.asarray(twice["mask"]).sum() > mask.sum()


def test_strips_like_scratches(rng):
    image = jnp.full((64, 32, 32, 3), 0.5)
    options = {"probability": 1.0, "length": (0.6, 0.6), "width": (0.0, 0.0), "brightness": 0.4, "own": 1.0}
    found = one_class.cut_paste(**options, bend=0.3, smooth=True)(jax.random.key(0), {"image": image})
    change = np.abs(np.asarray(found["image"]) - 0.5)[..., 0]
    assert change.max() <= 0.4 + 1e-6 and (change.max((1, 2))[change.any((1, 2))] > 0.05).all()
    assert len(np.unique(change[0].round(4))) > 3  # partly covered pixels are blended
    marked = np.asarray(found["mask"]) == 1
    assert (change > 0.5 * change.max((1, 2), keepdims=True))[marked & (change > 0)].all() and change[marked].all()
    straight = one_class.cut_paste(**options)(jax.random.key(0), {"image": image})
    assert {len(np.unique(x.round(4))) for x in np.asarray(straight["image"])} <= {1, 2}

    def bow(mask):  # the smallest singular value: how far pixels lie from their best line
        return [np.linalg.svd(p - p.mean(0))[1][-1] / len(p) ** 0.5 for p in map(np.argwhere, mask) if len(p) > 12]

    assert np.mean(bow(np.asarray(found["mask"]))) > 2 * np.mean(bow(np.asarray(straight["mask"])))


def test_the_dirichlet_fit_finds_its_parameters(rng):
    true = np.array([[2.0, 5.0, 1.0], [0.5, 0.5, 3.0]])
    draws = np.stack([rng.dirichlet(alpha, 4000) for alpha in true], 1)
    found = one_class.fit_dirichlet(np.log(draws))
    np.testing.assert_allclose(found, true, rtol=0.08)
    score = one_class.dirichlet_score(np.log(draws[:2]), found)
    expected = -((found - 1) * np.log(draws[:2])).sum((1, 2))
    np.testing.assert_allclose(score, expected)


def test_distances_to_the_nearest_normal_rows():
    bank = one_class.fit_bank([[0.0, 0.0], [2.0, 20.0], [0.0, 20.0], [2.0, 0.0]])  # scales 1 and 10
    score = one_class.nearest_score(bank, [[0.0, 0.0], [4.0, 0.0]], 2)
    np.testing.assert_allclose(score, [(0 + 2) / 2 / 2**0.5, (2 + 8**0.5) / 2 / 2**0.5], atol=1e-5)


def test_scores_of_maps_and_thresholds():
    maps = np.zeros((2, 10, 10))
    maps[1, :2, 0] = 3, 1
    np.testing.assert_allclose(one_class.map_score(maps, 0.02), [0, 2])
    scores = np.arange(40.0)
    assert one_class.alarm_threshold(scores, 0.05) == 37 and (scores > 37).sum() == 2
    assert one_class.alarm_threshold(scores, 0.0) == 39 and one_class.alarm_threshold(scores, 1.0) == -np.inf


BAD = {
    "must be square": lambda: one_class.turned(jnp.zeros((1, 4, 5, 1)), 0),
    "log_shares of shape (2, 3): must be finite": lambda: one_class.fit_dirichlet(np.full((2, 3), -np.inf)),
    "log_shares up to 0.5: must be at most 0": lambda: one_class.fit_dirichlet(np.full((3, 2), 0.5)),
    "features of shape (3,): must be finite": lambda: one_class.fit_bank(np.zeros(3)),
    "neighbours=9": lambda: one_class.nearest_score(one_class.fit_bank(np.eye(3)), np.eye(3), 9),
    "brightness=2": lambda: one_class.cut_paste(brightness=2),
    "bend=2": lambda: one_class.cut_paste(bend=2),
    "own=-0.5": lambda: one_class.cut_paste(own=-0.5),
    "probability=-1": lambda: one_class.cut_paste(probability=-1),
    "length=(0.9, 0.2)": lambda: one_class.cut_paste(length=(0.9, 0.2)),
    "share=0": lambda: one_class.map_score(np.zeros((1, 2, 2)), 0),
    "alarms=2": lambda: one_class.alarm_threshold([1.0], 2),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_values_are_refused_in_one_line(words):
    with pytest.raises(jc.InputError) as error:
        BAD[words]()
    assert words in str(error.value) and "\n" not in str(error.value)
