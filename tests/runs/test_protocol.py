"""Splits keep groups whole and classes in proportion; choices on validation rows are the best of all choices."""

import jax
import numpy as np
import optax
import pytest
from sklearn import metrics as reference
from sklearn.utils.class_weight import compute_class_weight

import jaxcnn as jc
from jaxcnn.runs import protocol

InputError = jc.InputError


def people(rng, n=120, classes=4):
    """Return labels, and groups of 1 to 30 rows, each with a preferred class."""
    group = np.concatenate([np.full(rng.integers(1, 31), k) for k in range(n)])
    usual = rng.integers(0, classes, n)
    label = np.where(rng.random(len(group)) < 0.5, usual[group], rng.integers(0, classes, len(group)))
    order = rng.permutation(len(group))
    return label[order], group[order]


def shares(label):
    return np.bincount(label, minlength=4) / len(label)


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_no_person_is_on_both_sides(rng, fraction):
    label, group = people(rng)
    rest, cut = protocol.grouped(label, group, fraction, seed=0)
    assert np.array_equal(np.sort(np.concatenate([rest, cut])), np.arange(len(label)))
    assert not set(group[rest]) & set(group[cut])
    assert len(cut) / len(label) == pytest.approx(fraction, abs=0.01)
    assert np.abs(shares(label[cut]) - shares(label)).max() < 0.03
    # a purely random choice of groups is further from the shares
    lots = [np.isin(group, rng.permutation(120)[: round(120 * fraction)]) for _ in range(20)]
    assert np.abs(shares(label[cut]) - shares(label)).max() < np.median(
        [np.abs(shares(label[m]) - shares(label)).max() for m in lots]
    )
    assert np.array_equal(cut, protocol.grouped(label, group, fraction, seed=0)[1])
    assert not np.array_equal(cut, protocol.grouped(label, group, fraction, seed=1)[1])


def test_names_are_groups_as_well(rng):
    label, group = people(rng, 20)
    names = np.array([f"patient {k}" for k in group])
    rest, cut = protocol.grouped(label, names, 0.3, seed=0)
    assert not set(names[rest]) & set(names[cut])


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_folds_are_disjoint_exhaustive_and_stratified(rng, folds):
    label, group = people(rng)
    found = protocol.kfold(label, folds, seed=0)
    assert np.array_equal(np.sort(np.concatenate([fold for _, fold in found])), np.arange(len(label)))
    counts = np.array([np.bincount(label[fold], minlength=4) for _, fold in found])
    assert (np.ptp(counts, 0) <= 1).all() and np.ptp(counts.sum(1)) <= 1
    for rest, fold in found:
        assert np.array_equal(np.sort(np.concatenate([rest, fold])), np.arange(len(label)))
    for rest, fold in protocol.kfold(label, folds, seed=0, group=group):
        assert not set(group[rest]) & set(group[fold])
        assert len(fold) / len(label) == pytest.approx(1 / folds, rel=0.1)
        assert np.abs(shares(label[fold]) - shares(label)).max() < 0.06


def test_as_many_groups_as_parts_leave_none_empty():
    group = np.repeat([0, 1, 2], [100, 2, 1])
    sizes = [len(fold) for _, fold in protocol.kfold(np.zeros(103, int), 3, 0, group)]
    assert sorted(sizes) == [1, 2, 100]


def test_mean_and_deviation_over_folds():
    folds = protocol.kfold(np.arange(12) % 2, 3, seed=0)
    found = protocol.cross_validate(
        lambda rest, fold: {"accuracy": len(fold) + len(rest) / 100, "first": fold[0]}, folds
    )
    assert found["accuracy"]["values"] == [4.08] * 3 and found["accuracy"]["deviation"] == pytest.approx(0)
    assert found["first"]["deviation"] == pytest.approx(np.std([f[0] for _, f in folds], ddof=1))
    assert found["first"]["mean"] == pytest.approx(np.mean([f[0] for _, f in folds]))


def test_class_weights_are_those_of_scikit_learn(rng):
    label = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.05, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(5), y=label)
    np.testing.assert_allclose(protocol.class_weights(label, 5), expected)
    for power in (0, 0.5, 1):
        assert protocol.class_weights(label, 5, power)[label].mean() == pytest.approx(1)
    jc.tasks.classification(jc.models.mlp(num_classes=5), class_weights=protocol.class_weights(label, 5))


def test_logit_adjustment_is_the_logarithm_of_the_shares():
    label = np.array([0] * 6 + [1] * 3 + [2])
    np.testing.assert_allclose(protocol.logit_adjustment(label, 3), np.log([0.6, 0.3, 0.1]))
    np.testing.assert_allclose(protocol.logit_adjustment(label, 3, 0.5), 0.5 * np.log([0.6, 0.3, 0.1]))


def test_balanced_rows(rng):
    label = np.repeat([0, 1, 2], [50, 7, 1])
    rows = protocol.balanced(label, 3, seed=0)
    assert np.bincount(label[rows]).tolist() == [50, 50, 50]
    times = np.bincount(rows, minlength=58)
    assert (times[:50] == 1).all() and set(times[50:57]) == {7, 8} and times[57] == 50
    assert not np.array_equal(rows, np.sort(rows))


@pytest.mark.parametrize("cost", [None, (1, 1), (1, 10), (5, 1)])
def test_the_best_threshold_of_all(rng, cost):
    for k in range(30):
        n = int(rng.integers(2, 40))
        label, score = rng.integers(0, 2, n), rng.integers(0, 6, n) / 6 if k % 2 else rng.normal(size=n)
        label[:2] = 0, 1
        found = protocol.best_threshold(score, label, cost)

        def worth(at, score=score, label=label):
            called = score >= at
            if cost is None:
                return reference.f1_score(label, called, zero_division=0)
            return (cost[0] * (called & (label == 0)).sum() + cost[1] * (~called & (label == 1)).sum()) / len(label)

        every = [worth(at) for at in (*np.unique(score), np.inf)]
        assert worth(found.threshold) == pytest.approx(found.value)
        assert found.value == pytest.approx(max(every) if cost is None else min(every))


def test_temperature_is_where_the_loss_is_smallest(rng):
    true = rng.normal(size=(4000, 5))
    label = np.array([rng.choice(5, p=p) for p in np.asarray(jax.nn.softmax(true))])
    for scale in (0.05, 0.5, 3.0, 40.0):
        t = protocol.temperature(true * scale, label)
        assert t == pytest.approx(scale, rel=0.08)
        loss = lambda x, scale=scale: float(
            optax.softmax_cross_entropy_with_integer_labels(true * scale / x, label).mean()
        )
        assert loss(t) <= min(loss(t * 1.01), loss(t / 1.01))
    one = rng.normal(size=(4000, 1))
    sign = (rng.random(4000) < 1 / (1 + np.exp(-one[:, 0]))).astype(int)
    assert protocol.temperature(one * 3, sign) == pytest.approx(3, rel=0.15)


def test_reject_keeps_to_what_was_asked(rng):
    confidence = rng.integers(0, 40, 500) / 40
    correct = rng.random(500) < 0.5 + confidence / 2
    levels = np.unique(confidence)
    at = lambda t: ((confidence >= t).mean(), (~correct[confidence >= t]).mean())
    for risk in (0.0, 0.05, 0.1, 0.2, 1.0):
        found = protocol.reject(confidence, correct, risk=risk)
        fitting = [t for t in levels if at(t)[1] <= risk]
        assert found.threshold == (min(fitting) if fitting else np.inf)
        if fitting:
            assert (found.coverage, found.risk) == pytest.approx(at(found.threshold))
    for coverage in (0.1, 0.5, 0.9, 1.0):
        found = protocol.reject(confidence, correct, coverage=coverage)
        assert found.threshold == max(t for t in levels if at(t)[0] >= coverage)
    assert protocol.reject(confidence, np.zeros(500, bool), risk=0.5) == (np.inf, 0, 0)


LABEL = np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: protocol.grouped(LABEL, LABEL, 1.0, 0), "fraction=1.0: must be above 0 and below 1"),
        (lambda: protocol.grouped(LABEL, LABEL[:2], 0.5, 0), "must be [N] each"),
        (lambda: protocol.grouped(LABEL, np.zeros(4), 0.5, 0), "only 1 different values; 2 parts need"),
        (lambda: protocol.kfold(LABEL, 1, 0), "folds=1: must be at least 2, and at most the 4 rows"),
        (lambda: protocol.kfold(LABEL, 3, 0, LABEL), "folds=3: must be at least 2, and at most the 2 groups"),
        (lambda: protocol.class_weights(LABEL, 3), "no row is of class 2"),
        (lambda: protocol.logit_adjustment(LABEL, 3), "no row is of class 2"),
        (lambda: protocol.logit_adjustment(LABEL, 2, -1.0), "tau=-1.0: must be a number of at least 0"),
        (lambda: protocol.balanced(LABEL, 1, 0), "1 among the labels of 1 classes"),
        (lambda: protocol.best_threshold(np.ones(4), np.ones(4)), "all 4 are 1; a threshold needs rows of both"),
        (lambda: protocol.best_threshold(np.full(4, np.nan), LABEL), "without NaN"),
        (lambda: protocol.best_threshold(np.ones(4), LABEL, (-1, 1)), "must be two finite numbers"),
        (lambda: protocol.temperature(np.eye(2)[LABEL], LABEL), "they are right, so no temperature"),
        (lambda: protocol.temperature(1 - np.eye(2)[LABEL], LABEL), "no better than constant"),
        (lambda: protocol.temperature(np.ones(4), LABEL), "must be finite [N, K]"),
        (lambda: protocol.kfold(np.eye(4), 2, 0), "label of shape (4, 4): must be [N]"),
        (lambda: protocol.kfold(np.array([0, 1, np.nan, 0]), 2, 0), "label: 1 of 4 are NaN"),
        (lambda: protocol.kfold(LABEL, 2, 0, LABEL[:, None]), "group of shape (4, 1): must be [N]"),
        (
            lambda: protocol.class_weights(LABEL - 1, 2),
            "-1 among the labels of 2 classes, which are 0 to 1; number them from 0",
        ),
        (lambda: protocol.class_weights(LABEL + 1, 2), "2 among the labels of 2 classes"),
        (lambda: protocol.class_weights(LABEL / 2, 2), "0.5 among the labels, which must be whole numbers"),
        (lambda: protocol.class_weights(LABEL[:, None], 2), "label of shape (4, 1)"),
        (lambda: protocol.class_weights(LABEL.astype(str), 2), "dtype <U21 among the labels"),
        (lambda: protocol.balanced(LABEL - 1, 2, 0), "-1 among the labels of 2 classes"),
        (
            lambda: protocol.best_threshold(np.ones(4), 2 * LABEL - 1),
            "-1 among the labels of 2 classes, which are 0 to 1",
        ),
        (lambda: protocol.best_threshold(np.ones(4), LABEL + 1), "2 among the labels of 2 classes"),
        (lambda: protocol.best_threshold(np.ones(4), np.array([0, 1, np.nan, 1])), "label: 1 of 4 are NaN"),
        (lambda: protocol.best_threshold(np.ones((4, 1)), LABEL[:, None]), "label of shape (4, 1)"),
        (lambda: protocol.best_threshold(np.ones(3), LABEL), "must be [N] each"),
        (lambda: protocol.temperature(np.ones((4, 2)), LABEL - 1), "-1 among the labels of 2 classes"),
        (lambda: protocol.temperature(np.ones((4, 1)), LABEL + 1), "2 among the labels of 2 classes"),
        (lambda: protocol.temperature(np.ones((3, 2)), LABEL), "must be finite [N, K] and [N]"),
        (lambda: protocol.reject(np.ones(4), LABEL * 2, risk=0.1), "correct: 2 among the labels of 2 classes"),
        (lambda: protocol.reject(np.ones(4), LABEL), "give one of the two"),
        (lambda: protocol.reject(np.ones(4), LABEL, risk=2), "from 0 to 1"),
    ],
)
def test_bad_input_is_one_line(call, line):
    with pytest.raises(InputError) as error:
        call()
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("form", [np.float32, bool, np.uint8])
def test_labels_of_another_dtype_mean_the_same(rng, form):
    label = rng.integers(0, 2, 40)
    logits = rng.normal(size=(40, 2)) + 0.5 * np.eye(2)[label]
    for call in (
        lambda y: protocol.class_weights(y, 2),
        lambda y: protocol.balanced(y, 2, 0),
        lambda y: protocol.best_threshold(logits[:, 1], y),
        lambda y: protocol.temperature(logits, y),
        lambda y: protocol.temperature(logits[:, 1:], y),
        lambda y: protocol.reject(logits[:, 0], y, risk=0.4),
        lambda y: protocol.kfold(y, 3, 0)[1][1],
        lambda y: protocol.grouped(y, np.arange(40) // 4, 0.3, 0)[1],
    ):
        np.testing.assert_array_equal(call(label.astype(form)), call(label))


@pytest.mark.parametrize("cost", [None, (1, 1)])
@pytest.mark.parametrize("seed", range(5))
def test_equal_scores_stay_together_even_infinite_ones(cost, seed):
    rng = np.random.default_rng(seed)
    score = rng.choice([-np.inf, 0.0, 1.0, np.inf], 12)
    label = np.append(rng.integers(0, 2, 10), (0, 1))
    found = protocol.best_threshold(score, label, cost)
    called = score >= found.threshold
    hits, wrong = (called & (label == 1)).sum(), (called & (label == 0)).sum()
    value = 2 * hits / (called.sum() + label.sum()) if cost is None else (wrong + label.sum() - hits) / 12
    assert found.value == pytest.approx(value)
    answered = protocol.reject(score, label, risk=0.3)
    kept = score >= answered.threshold
    assert answered.coverage == pytest.approx(kept.mean())
    assert answered.risk == pytest.approx((label[kept] == 0).mean() if kept.any() else 0)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_threshold_between_neighbours_divides_them(kind):
    upper = kind(1 - np.finfo(kind).epsneg)
    score = np.array([upper, np.nextafter(upper, kind(0))])
    found = protocol.best_threshold(score, [1, 0])
    assert (score >= found.threshold).tolist() == [True, False] and found.value == 1


@pytest.mark.parametrize(
    "call, line",
    [
        (lambda: protocol.best_threshold([0.1, 0.9], [0, 1], (np.nan, 1)), "cost=.* must be two finite numbers"),
        (lambda: protocol.best_threshold([0.1, 0.9], [0, 1], (1, 2, 3)), "cost=.* must be two finite numbers"),
        (lambda: protocol.best_threshold([0.1, 0.9], [0, 1], 5), "cost=5: must be two finite numbers"),
        (lambda: protocol.class_weights([0, 1], 2, power=-1), "power=-1: must lie in 0..1"),
        (lambda: protocol.class_weights([0, 1], 2, power=np.nan), "power=nan"),
        (lambda: protocol.temperature([[0.0, 1.0], [0.5, 0]], [1, 1], steps=0), "steps=0"),
        (lambda: protocol.balanced([0, 1], 2, None), "seed=None: must be a whole number"),
        (lambda: protocol.kfold([0, 1], 2, None), "seed=None: must be a whole number"),
        (lambda: protocol.grouped([0, 1], [0, 1], 0.5, None), "seed=None: must be a whole number"),
        (lambda: protocol.cross_validate(lambda rest, fold: {}, []), "folds: has none"),
    ],
)
def test_what_makes_no_sense_is_refused(call, line):
    with pytest.raises(jc.InputError, match=line):
        call()
