"""Active learning: scores by hand, the cover against all choices, samples of dropout, and the loop."""

import itertools

import jax
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.methods import active
from tests.small import Small, rows, task


def test_scores_by_hand():
    p = np.array([[0.5, 0.5, 0.0], [0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(active.least_confidence(p), [0.5, 0.3, 0.0])
    np.testing.assert_allclose(active.margin(p), [1.0, 0.5, 0.0])
    third = -(0.7 * np.log(0.7) + 0.2 * np.log(0.2) + 0.1 * np.log(0.1))
    np.testing.assert_allclose(active.entropy(p), [np.log(2), third, 0.0])


def test_bald_is_high_where_sure_networks_disagree():
    sure, torn, split = [[1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]], [[1.0, 0.0], [0.0, 1.0]]
    one = [[0.9, 0.1], [0.5, 0.5]]  # H(0.7, 0.3) - (H(0.9, 0.1) + H(0.5, 0.5)) / 2, by a pocket calculator
    found = active.bald([sure, torn, split, one])
    np.testing.assert_allclose(found, [0, 0, np.log(2), 0.610864 - (0.325083 + 0.693147) / 2], atol=1e-5)


def test_the_highest_scores_leave_out_what_is_taken():
    scores = [3.0, 9.0, 7.0, 9.0, 1.0]
    assert active.highest(scores, 3).tolist() == [1, 3, 2]
    assert active.highest(scores, 3, taken=[1, 2]).tolist() == [3, 0, 4]
    assert active.highest(scores, 9, taken=[0]).tolist() == [1, 3, 2, 4] and not len(active.highest(scores, 0))
    drawn = active.at_random(10, 4, taken=[0, 1], seed=3)
    assert len(set(drawn.tolist())) == 4 and drawn.min() > 1
    assert drawn.tolist() == active.at_random(10, 4, taken=[0, 1], seed=3).tolist()


def reach(x, chosen):
    return np.linalg.norm(x[:, None] - x[list(chosen)][None], axis=-1).min(1).max()


@pytest.mark.parametrize("taken", [(), (2, 5)])
def test_centres_cover_at_most_twice_as_far_as_the_best_of_all_choices(rng, taken):
    for _ in range(20):
        x = rng.standard_normal((10, 2)).astype(np.float32)
        found = active.k_centre(x, 3, taken=taken)
        assert len(set(found.tolist()) | set(taken)) == 3 + len(taken)
        free = [i for i in range(10) if i not in taken]
        best = min(reach(x, (*taken, *some)) for some in itertools.combinations(free, 3))
        assert reach(x, (*taken, *found)) <= 2 * best + 1e-6


def test_each_centre_is_the_farthest_row(rng):
    x, chosen = rng.standard_normal((40, 3)).astype(np.float32), [7]
    for _ in range(9):
        chosen.append(int(np.linalg.norm(x[:, None] - x[chosen][None], axis=-1).min(1).argmax()))
    assert active.k_centre(x, 10, first=7).tolist() == chosen
    assert active.k_centre(x, 9, taken=[7]).tolist() == chosen[1:]
    same = active.k_centre(np.zeros((4, 2)), 4, taken=[1])
    assert sorted(same.tolist()) == [0, 2, 3]  # also where all rows are equal, none comes twice


def test_samples_of_dropout_differ_and_are_probabilities():
    made, data = task(dropout=0.5), rows(24)
    variables = made.init(jax.random.key(0), data.example())
    samples = active.dropout_samples(made, variables, data, 4, batch_size=16)
    assert samples.shape == (24, 4, 4) and (active.bald(samples) > 0).all()
    np.testing.assert_array_equal(samples, active.dropout_samples(made, variables, data, 4, batch_size=16))
    bright = jc.data.Resident({**data.arrays, "image": data.arrays["image"].astype(np.float32)}, data.classes)
    with pytest.raises(jc.InputError, match="divide by 255"):
        active.dropout_samples(made, variables, bright, 2)
    two = jc.tasks.classification(Small(num_classes=1, dropout=0.5), head="sigmoid")
    pair = active.dropout_samples(two, two.init(jax.random.key(0), data.example()), rows(8, 2), 2)
    assert pair.shape == (8, 2, 2) and (active.bald(pair) > 0).all()
    without = task()
    with pytest.raises(jc.InputError, match="all samples are equal; give a network with dropout"):
        active.dropout_samples(without, variables, data, 2)


def test_rounds_label_what_was_chosen():
    asked = []

    def train(rows):
        asked.append(rows.tolist())
        return len(rows)

    def choose(result, rows):
        return active.highest(np.arange(8), result, taken=rows)

    found = list(active.rounds(train, choose, [1, 0], 3))
    assert asked == [[0, 1], [0, 1, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert [(one.number, one.result) for one in found] == [(0, 2), (1, 4), (2, 8)]
    with pytest.raises(jc.InputError, match="returned a row twice"):
        list(active.rounds(train, lambda result, rows: rows[:1], [0], 2))


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: active.entropy([[0.5, 0.6]]), "sum to 1"),
        (lambda: active.margin([0.5, 0.5]), r"must be \[N, K\]"),
        (lambda: active.bald([[0.5, 0.5]]), r"must be \[N, S, K\]"),
        (lambda: active.highest([np.nan], 1), "without NaN"),
        (lambda: active.highest([1.0], -1), "count=-1"),
        (lambda: active.highest([1.0], 1, taken=[1]), "taken: row numbers from 1 to 1; there are 1 rows"),
        (lambda: next(active.rounds(lambda rows: 0, None, [True, False], 1)), "np.flatnonzero"),
        (lambda: active.k_centre([[np.inf]], 1), "must be finite"),
        (lambda: active.k_centre([[0.0]], 1, first=1), "first=1"),
        (lambda: active.k_centre([[0.0]], 1, first=0.5), "first=0.5"),
        (lambda: active.k_centre([[0.0], [1.0]], 1.5), "count=1.5: must be a whole number, at least 0"),
        (lambda: active.k_centre([[0.0], [1e20]], 1), r"a value of 1e\+20 is too large to square"),
        (lambda: active.at_random(-1, 1), "size=-1"),
        (lambda: active.at_random(1, 1, seed=-1), "seed=-1"),
        (lambda: active.dropout_samples(task(), {}, None, batch_size=-5), "batch_size=-5"),
        (
            lambda: active.dropout_samples(jc.tasks.classification(Small(), head="multilabel"), {}, None),
            "several labels per row",
        ),
        (lambda: active.dropout_samples(None, {}, None, 1), "samples=1"),
        (lambda: list(active.rounds(len, len, [0], 0)), "count=0"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [False, True])
def test_a_linear_head_is_logistic_regression(given):
    """Without a prior, scikit-learn has the same; with one, the objective has its minimum there."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    vectors, rows, label = rng.normal(size=(40, 5)), np.arange(3, 40, 2), rng.integers(0, 3, 19)
    prior = rng.dirichlet(np.ones(3), 40) if given else None
    found = active.linear_head(vectors, rows, label, 3, prior=prior, penalty=0.5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    x = vectors - vectors.mean(0)
    x = np.concatenate([x / np.sqrt((x**2).sum(1).mean()), np.ones((40, 1))], 1)
    if not given:
        oracle = linear_model.LogisticRegression(C=2.0, fit_intercept=False, tol=1e-8, max_iter=1000)
        np.testing.assert_allclose(found, oracle.fit(x[rows], label).predict_proba(x), atol=1e-4)
        return
    w = np.linalg.lstsq(x, np.log(found) - np.log(np.maximum(prior, active.LEAST)), rcond=None)[0]
    w -= w.mean(1, keepdims=True)  # the part that changes no probability
    slope = x[rows].T @ (found[rows] - np.eye(3)[label]) + 0.5 * w
    np.testing.assert_allclose(slope, 0, atol=2e-3)


def test_a_linear_head_begins_with_the_prior_and_ends_with_the_labels():
    vectors = np.concatenate([np.eye(2)] * 50)
    wrong = np.tile([0.03, 0.97], (100, 1))  # of every row
    wrong[::2] = [0.97, 0.03]
    label = np.tile([1, 0], 50)
    some, all_ = (
        active.linear_head(vectors, np.arange(n), label[:n], 3, prior=np.pad(wrong, ((0, 0), (0, 1)))) for n in (2, 100)
    )
    assert (some.argmax(1) != label).all() and (all_.argmax(1) == label).all()
    assert (some[:, 2] < 0.01).all()  # a class without labels that the prior does not know


@pytest.mark.parametrize(
    "change, line",
    [
        ({"vectors": np.full((4, 2), np.nan)}, "vectors of shape"),
        ({"labelled": []}, "at least one"),
        ({"labelled": [0, 4]}, "labelled: row numbers from 0 to 4; there are 4 rows"),
        ({"labelled": [True, False]}, "labelled: bool of shape"),
        ({"label": [0, 3]}, "label: must be from 0 to 2, and one is 3"),
        ({"num_classes": 1}, "num_classes=1"),
        ({"penalty": 0.0}, "penalty=0.0"),
        ({"num_classes": 2.5}, "num_classes=2.5"),
        ({"prior": np.ones((4, 2))}, "prior of shape"),
        ({"prior": np.full((4, 3), np.inf)}, "prior of shape"),
    ],
)
def test_what_a_linear_head_refuses(change, line):
    given = {"vectors": np.eye(4, 2), "labelled": [0, 1], "label": [0, 1], "num_classes": 3} | change
    with pytest.raises(jc.InputError, match=line) as caught:
        active.linear_head(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale, move", [(1.0, 1e8), (1e-24, 0.0), (1e15, 0.0)])
def test_rows_cover_others_whatever_the_scale(scale, move):
    vectors = np.arange(5.0)[:, None] * scale + move
    assert active.k_centre(vectors, 2, first=0).tolist() == [0, 4]
