"""Matching of candidates to true boxes: thresholds, claims, crowds, padding, and what a loss counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import matching


def truth(*boxes, **more):
    return matching.truths(
        {"boxes": jnp.asarray([boxes], jnp.float32), **{k: jnp.asarray([v]) for k, v in more.items()}}
    )


CANDIDATES = jnp.array([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.4], [0.0, 0.0, 0.5, 0.2], [0.6, 0.6, 0.9, 0.9]]])


def matched(known, high=0.5, low=0.5):
    overlap = matching.overlaps(known, CANDIDATES)
    return matching.match(known, CANDIDATES, overlap, high=high, low=low), overlap


def test_thresholds_and_the_box_that_overlaps_most():
    known = truth([0.0, 0.0, 0.5, 0.2], [0.0, 0.0, 0.5, 0.5], box_label=[7, 3])
    found, overlap = matched(known, high=0.9, low=0.7)
    np.testing.assert_allclose(overlap[0], [[0.4, 0.5, 1, 0], [1, 0.8, 0.4, 0]], rtol=1e-6)
    assert found.truth[0].tolist() == [1, 1, 0, 0]
    assert found.positive[0].tolist() == [True, False, True, False]
    assert found.negative[0].tolist() == [False, False, False, True]  # 0.8 is neither


def test_each_true_box_claims_its_best_candidate():
    known = truth([0.5, 0.5, 1.0, 1.0], [0.0, 0.0, 0.4, 0.1])
    found, overlap = matched(known)
    assert not found.positive.any()
    found = matching.claim_best(found, overlap)
    assert found.positive[0].tolist() == [False, False, True, True] and found.truth[0].tolist()[2:] == [1, 0]
    assert found.negative[0].tolist() == [True, True, False, False]
    both = truth([0.6, 0.6, 0.9, 0.9], [0.6, 0.6, 0.9, 0.8])  # two claim the last candidate
    found = matching.claim_best(*matched(both))
    assert found.positive[0].tolist() == [False] * 3 + [True] and found.truth[0, 3] == 1


def test_a_true_box_that_meets_no_candidate_claims_none():
    for claim in (matching.claim_best, matching.claim_ties):
        found = claim(*matched(truth([0.95, 0.0, 1.0, 0.1])))
        assert not found.positive.any() and found.negative.all()


def test_ties_are_all_claimed_and_keep_the_box_that_they_overlap_most():
    candidates = jnp.array([[[0.0, 0.0, 0.3, 0.3], [0.3, 0.3, 0.6, 0.6], [0.7, 0.7, 1.0, 1.0]]])
    known = truth([0.15, 0.15, 0.45, 0.45], [0.29, 0.29, 0.62, 0.62])
    overlap = matching.overlaps(known, candidates)
    found = matching.match(known, candidates, overlap, high=0.9, low=0.1)
    assert not found.positive.any() and found.negative[0].tolist() == [False, False, True]
    found = matching.claim_ties(found, overlap)
    assert found.positive[0].tolist() == [True, True, False] and found.truth[0].tolist()[:2] == [0, 1]


def test_crowds_and_padding_match_nothing_and_hide_the_background():
    nan = [np.nan] * 4
    known = truth(
        [0.0, 0.0, 0.5, 0.5], nan, [0.55, 0.55, 1.0, 1.0], box_label=[1, 99, 2], box_mask=[1, 0, 1], box_crowd=[0, 1, 1]
    )
    assert known.real[0].tolist() == [True, False, False] and known.label[0].tolist() == [1, 0, 0]
    found, overlap = matched(known)
    assert found.positive[0].tolist() == [True, True, False, False]
    assert found.negative[0].tolist() == [False, False, True, False]  # the last one lies in the crowd
    assert np.isfinite(overlap).all()


def test_rows_that_are_padding_have_no_boxes():
    batch = {
        "boxes": jnp.full((2, 1, 4), jnp.nan).at[0].set(jnp.array([0.0, 0, 1, 1])),
        "row_mask": jnp.array([1.0, 0]),
    }
    known = matching.truths(batch)
    assert known.real[:, 0].tolist() == [True, False] and np.isfinite(known.boxes).all() and known.crowd is None
    none = matching.truths({"boxes": jnp.zeros((3, 0, 4)), "box_label": jnp.zeros((3, 0), jnp.int32)})
    assert none.boxes.shape == (3, 1, 4) and not none.real.any()


def test_the_hardest_negatives_exactly_as_many_as_asked_for():
    values = jnp.array([[3.0, 1.0, 2.0, 2.0, 2.0, 0.0, 9.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 6.0]])
    positive = jnp.array([[False] * 6 + [True], [False] * 7])
    negative = jnp.array([[True] * 6 + [False], [False, True, True, True, True, True, False]])
    found = matching.hardest(values, positive, negative, 3.0)
    assert found[0].tolist() == [True, False, True, True, False, False, False]  # the first among equals
    assert found[1].tolist() == [False, True, True, True, False, False, False]  # as for one positive
    every = matching.hardest(values, positive | negative, negative, 3.0)
    assert (every == negative).all()  # there are not enough
    assert not matching.hardest(values, positive, jnp.zeros_like(negative), 3.0).any()


@pytest.mark.parametrize("positives, negatives, size", [(6, 30, 8), (2, 30, 8), (3, 2, 8), (0, 5, 3), (0, 0, 2)])
def test_the_expected_sample_is_the_mean_of_samples(positives, negatives, size):
    kind = np.array([1] * positives + [0] * negatives + [-1] * 3)[None]
    found = matching.Matches(jnp.zeros(kind.shape, jnp.int32), jnp.asarray(kind == 1), jnp.asarray(kind == 0))
    weight = np.asarray(matching.expected_sample(found, size, 0.5))[0]
    taken = min(positives, size // 2)
    np.testing.assert_allclose(weight[kind[0] == 1].sum(), taken, rtol=1e-6)
    np.testing.assert_allclose(weight[kind[0] == 0].sum(), min(negatives, size - taken), rtol=1e-6)
    assert not weight[kind[0] == -1].any()

    @jax.jit
    @jax.vmap
    def drawn(key):
        index, mask = matching.sample(jax.random.uniform(key, kind.shape), found, size, 0.5)
        return jnp.zeros(kind.shape[1]).at[index[0]].add(mask[0]), mask.sum()

    times, counts = drawn(jax.random.split(jax.random.key(0), 2000))
    assert (counts == round(weight.sum())).all() and times.max() <= 1
    np.testing.assert_allclose(times.mean(0), weight, atol=0.05)
