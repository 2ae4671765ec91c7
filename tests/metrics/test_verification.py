"""Verification, identification and retrieval against scikit-learn and literals worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import InputError, metrics


def test_pairs_by_hand():
    x = np.array([[1.0, 0], [0, 2.0], [3.0, 4.0]])
    scores, same = metrics.pair_scores(x, np.array(["a", "b", "a"]))
    np.testing.assert_allclose(scores, [0, 0.6, 0.8])
    assert same.tolist() == [False, True, False]
    scores, _ = metrics.pair_scores(x, np.zeros(3), "euclidean")
    np.testing.assert_allclose(scores, [-np.sqrt(5), -np.sqrt(20), -np.sqrt(13)])


@pytest.mark.parametrize("seed", range(6))
def test_verification_is_scikit_learn(seed):
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(seed)
    same = rng.random(200) < 0.3
    scores = np.round(rng.normal(same, 1.0), 1 + seed % 2)  # with ties
    fpr, tpr, thresholds = roc_curve(same, scores, drop_intermediate=False)
    found = metrics.verification(scores, same, (0.0, 0.01, 0.1, 1.0))
    assert found.auc == pytest.approx(roc_auc_score(same, scores))
    for far, (share, threshold) in found.tar.items():
        best = np.flatnonzero(fpr <= far)[-1]
        assert (share, threshold) == (tpr[best], thresholds[best])
        assert np.isinf(threshold) or (scores[~same] >= threshold).mean() <= far
        assert metrics.tar_at_far(scores, same, far) == (share, threshold)
    at = np.linspace(0, 1, 200_001)
    gap = np.abs(1 - np.interp(at, fpr, tpr) - at)
    assert found.eer == pytest.approx(at[gap.argmin()], abs=1e-4) == metrics.equal_error_rate(scores, same)


def test_equal_error_rate_by_hand():
    # one of four negatives above all but one of four positives: 1/4 of each is wrong at the threshold 3
    assert metrics.equal_error_rate([5, 4, 3, 1, 3.5, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]) == 0.25
    assert metrics.equal_error_rate([2, 3, 0, 1], [1, 1, 0, 0]) == 0
    assert metrics.equal_error_rate([0, 1, 2, 3], [1, 1, 0, 0]) == 1
    assert metrics.equal_error_rate([1, 1, 1, 1], [1, 1, 0, 0]) == 0.5
    assert np.isnan(metrics.equal_error_rate([1, 2], [1, 1]))
    assert np.isnan(metrics.tar_at_far([1, 2], [0, 0], 0.1)[0])


def test_identification_by_hand():
    gallery = np.array([[1.0, 0], [0, 1.0], [-1.0, 0], [0.6, 0.8]])
    people = np.array([10, 11, 12, 10])
    probes = np.array([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.1]])
    found = metrics.identification(gallery, people, probes, np.array([10, 11, 11]), ranks=(1, 2, 3))
    assert found == {"rank_1": 1 / 3, "rank_2": 1, "rank_3": 1, "count": 3}
    tied = metrics.identification(gallery[[0, 0]], [1, 2], gallery[:1], [1])
    assert tied["rank_1"] == 0 and tied["rank_5"] == 1  # a tie does not flatter


def test_retrieval_by_hand():
    x = np.array([[0.0], [1], [3], [7]])
    # of 0: 1 (right), 3, 7 (right); of 1: 0 (right), 3, 7 (right); 3 has no other; of 7: 3, 1 (right), 0 (right)
    found = metrics.retrieval(x, np.array([0, 0, 1, 0]), measure="euclidean", ranks=(1, 2))
    expected = np.mean([(1 + 2 / 3) / 2, (1 + 2 / 3) / 2, (1 / 2 + 2 / 3) / 2])
    assert found["map"] == pytest.approx(expected) and found["count"] == 3
    assert found["recall_at_1"] == pytest.approx(2 / 3) and found["recall_at_2"] == 1


@pytest.mark.parametrize("measure", ["cosine", "euclidean"])
def test_mean_average_precision_is_scikit_learn(rng, measure):
    from sklearn.metrics import average_precision_score

    x, g = rng.integers(-2, 3, (30, 3)), rng.integers(-2, 3, (40, 3))  # with ties
    x, g = x[np.abs(x).sum(1) > 0], g[np.abs(g).sum(1) > 0]
    label, known = rng.integers(0, 4, len(x)), rng.integers(0, 4, len(g))
    found = metrics.retrieval(x, label, gallery=g, gallery_labels=known, measure=measure)
    a, b = (y / np.linalg.norm(y, axis=1, keepdims=True) for y in (x, g))
    scores = a @ b.T if measure == "cosine" else -np.linalg.norm(x[:, None] - g[None], axis=-1)
    scores = scores.round(9)
    want = np.mean([average_precision_score(known == k, s) for k, s in zip(label, scores, strict=True)])
    assert found["map"] == pytest.approx(want, abs=2e-3)
    best = [s[known == k].max() > s[known != k].max() + 1e-8 for k, s in zip(label, scores, strict=True)]
    assert found["recall_at_1"] == pytest.approx(np.mean(best))


def test_no_class_has_a_second_row():
    found = metrics.retrieval(np.eye(3), np.arange(3), ranks=(1,))
    assert found["count"] == 0 and np.isnan(found["map"]) and np.isnan(found["recall_at_1"])


def test_pair_cosines_are_those_of_all_pairs(rng):
    x = rng.standard_normal((12, 5)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    label, mask = rng.integers(0, 3, 12), np.array([1.0] * 10 + [0, 0], np.float32)
    spoiled = np.where(mask[:, None] > 0, x, np.nan)
    metric = metrics.pair_cosines(3)
    parts = [
        metric(jnp.asarray(spoiled[i : i + 4]), {"label": jnp.asarray(label[i : i + 4]), "row_mask": mask[i : i + 4]})
        for i in range(0, 12, 4)
    ]
    total = metrics.PairCosines(*(sum(p[k] for p in parts) for k in range(3)))
    scores, same = metrics.pair_scores(x[:10], label[:10])
    found = total.compute()
    assert found["same_cosine"] == pytest.approx(scores[same].mean(), abs=1e-5)
    assert found["other_cosine"] == pytest.approx(scores[~same].mean(), abs=1e-5)
    assert found["separation"] == pytest.approx(scores[same].mean() - scores[~same].mean(), abs=1e-5)
    assert np.isnan(metric(jnp.asarray(x[:1]), {"label": jnp.array([0])}).compute()["same_cosine"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.pair_scores(np.ones((2, 2)), [0]), r"labels of shape \(1,\): must be \(2,\)"),
        (lambda: metrics.pair_scores(np.ones((2, 2)), [0, 1], "dot"), "measure='dot': must be one of cosine, euclid"),
        (lambda: metrics.pair_scores(np.full((2, 2), np.nan), [0, 1]), "2 of 2 rows are not finite"),
        (lambda: metrics.pair_scores(np.ones((20_000, 1)), np.zeros(20_000)), "more than .* pairs"),
        (lambda: metrics.identification(np.eye(2), [0, 1], np.eye(2), [0, 2]), "probe label 2: not in the gallery"),
        (lambda: metrics.identification(np.eye(2), [0, 1], np.eye(3), [0, 0, 0]), "vectors of 3 and 2 numbers"),
        (lambda: metrics.retrieval(np.eye(2), [0, 1], ranks=(0,)), r"ranks=\(0,\): must be at least 1"),
        (lambda: metrics.retrieval(np.eye(2), [0, 1], gallery=np.eye(2)), "give both, or neither"),
        (lambda: metrics.tar_at_far([0, 1], [0, 1], 1.5), "far=1.5: must be in 0..1"),
        (lambda: metrics.pair_cosines(0), "num_classes=0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
