"""Every metric equals scikit-learn over 200 seeded cases: ties, absent classes, a single class, no rows, NaN padding.

Each `*_gaps` yields the differences of its 200 cases. All cases are padded to one shape, so that programs compile once.
"""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk

from jaxcnn import metrics

CASES, ROWS, CLASSES = 200, 48, 5


def softmax(logits):
    powers = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@functools.cache
def case(seed):
    """Return logits [ROWS, K], labels, multi-label targets, values, and the row mask; padding is NaN."""
    rng = np.random.default_rng([seed, 1])
    n = 0 if seed % 20 == 19 else int(rng.integers(1, ROWS + 1))
    classes = 1 if seed % 10 == 3 else int(rng.integers(2, CLASSES + 1))
    kept = rng.permutation(CLASSES)[:classes]  # the others have no rows
    logits = rng.normal(size=(ROWS, CLASSES)).astype(np.float32) * 3
    logits = np.round(logits) if seed % 2 else logits  # ties
    labels = kept[rng.integers(0, classes, ROWS)].astype(np.int32)
    logits[np.arange(ROWS), labels] += np.float32(seed % 3)
    several = (rng.random((ROWS, CLASSES)) < rng.choice([0.0, 0.3, 0.6, 1.0], CLASSES, p=[0.1, 0.4, 0.4, 0.1])).astype(
        np.int32
    )
    values = (rng.choice([0.0, 1.0, 1e3]) + rng.normal(size=(ROWS, 2))).astype(np.float32)
    guesses = np.where(rng.random() < 0.1, values, values + rng.normal(size=values.shape).astype(np.float32) * 0.5)
    values = np.where(seed % 10 == 7, values[:1], values)  # constant
    row_mask = np.zeros(ROWS, np.float32)
    row_mask[rng.permutation(ROWS)[:n]] = 1
    logits[row_mask == 0], guesses[row_mask == 0] = np.nan, np.nan
    return {
        "logits": logits,
        "label": labels,
        "several": several,
        "values": values,
        "guesses": guesses,
        "row_mask": row_mask,
    }


def alone(c):
    """Leave out padding."""
    return {key: x[c["row_mask"] > 0] for key, x in c.items()}


def computed(metric, output="logits", label="label"):
    """The metric of each case, from padded rows."""
    run = jax.jit(lambda out, label, row_mask: metric(out, {"label": label, "row_mask": row_mask}))
    for seed in range(CASES):
        c = case(seed)
        with np.errstate(invalid="ignore"):  # NaN cast to integers, in padding
            value = jax.device_get(
                run(jnp.asarray(c[output]), jnp.asarray(c[label]), jnp.asarray(c["row_mask"]))
            ).compute()
        yield alone(c), value


def gap(own, expected):
    """Largest difference; both or neither must be NaN."""
    own, expected = np.asarray(own, np.float64), np.asarray(expected, np.float64)
    assert own.shape == expected.shape and np.array_equal(np.isnan(own), np.isnan(expected)), (own, expected)
    return float(np.abs(np.where(own == expected, 0, np.nan_to_num(own - expected))).max(initial=0))


def matrix_of(c):
    return (
        sk.confusion_matrix(c["label"], c["logits"].argmax(-1), labels=range(CLASSES))
        if len(c["label"])
        else np.zeros((CLASSES,) * 2)
    )


def confusion_gaps():
    for c, value in computed(metrics.confusion(CLASSES)):
        yield gap(value["confusion"], matrix_of(c))


def accuracy_gaps():
    for c, value in computed(metrics.accuracy):
        yield gap(value, sk.accuracy_score(c["label"], c["logits"].argmax(-1)) if len(c["label"]) else np.nan)


def top_k_gaps(k):
    for c, value in computed(metrics.top_k(k)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, that k >= classes is always right
            # it lets the last of equal scores win, so the classes are turned round
            turned = CLASSES - 1 - c["label"], c["logits"][:, ::-1]
            yield gap(
                value, sk.top_k_accuracy_score(*turned, k=k, labels=range(CLASSES)) if len(c["label"]) else np.nan
            )


def brier_gaps():
    for c, value in computed(metrics.brier):
        yield gap(
            value,
            sk.brier_score_loss(c["label"], softmax(c["logits"]), labels=range(CLASSES)) if len(c["label"]) else np.nan,
        )


def brier_of_two_gaps():
    one = lambda out, batch: metrics.brier(out[:, :1], batch | {"label": batch["label"][:, 0]})
    two = lambda out, batch: metrics.brier(out[:, :2], batch | {"label": batch["label"][:, 0]})
    for metric, positive in ((one, lambda z: sigmoid(z[:, 0])), (two, lambda z: softmax(z[:, :2])[:, 1])):
        for c, value in computed(metric, label="several"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scikit-learn warns about a single class
                rows = len(c["label"])
                yield gap(
                    value,
                    sk.brier_score_loss(c["several"][:, 0], positive(c["logits"]), labels=[0, 1]) if rows else np.nan,
                )


def calibration_by_definition(sure, right, bins):
    """ECE and MCE as Guo et al. write them."""
    edges, gaps = np.linspace(0, 1, bins + 1).astype(np.float32), []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (sure > low) & (sure <= high)
        if inside.any():
            gaps.append((inside.sum(), abs(right[inside].mean() - sure[inside].astype(np.float64).mean())))
    return sum(n * g for n, g in gaps) / len(sure), max(g for _, g in gaps)


def calibration_gaps(bins=15):
    # on an edge the last digit decides, so it is the same
    probability = jax.jit(lambda x: jax.nn.softmax(x, -1).max(-1))
    for seed, (c, value) in enumerate(computed(metrics.calibration(bins))):
        sure = np.asarray(probability(case(seed)["logits"]))[case(seed)["row_mask"] > 0]
        right = c["logits"].argmax(-1) == c["label"]
        expected = calibration_by_definition(sure, right, bins) if len(sure) else (np.nan, np.nan)
        yield gap([value["ece"], value["mce"]], expected)
        assert value["reliability"].counts.sum() == len(sure)


def multilabel_confusion_gaps():
    for c, value in computed(metrics.multilabel_confusion(CLASSES), label="several"):
        expected = (
            sk.multilabel_confusion_matrix(c["several"], c["logits"] > 0)
            if len(c["label"])
            else np.zeros((CLASSES, 2, 2))
        )
        yield gap(value["multilabel_confusion"], expected)


def averages(seed, thorough):
    """Every way to average, or one in turn: scikit-learn takes most of the time here."""
    kinds = ("macro", "micro", "weighted", None)
    return kinds if thorough else kinds[seed // 2 % 4 :][:1]


def averaged_gaps(kind, thorough):
    """Precision, recall, F1, Dice and IoU."""
    for seed in range(CASES):
        c = alone(case(seed))
        if not len(c["label"]):
            continue
        truth, guess = (c["several"], c["logits"] > 0) if kind == "multilabel" else (c["label"], c["logits"].argmax(-1))
        matrix = sk.multilabel_confusion_matrix(truth, guess) if kind == "multilabel" else matrix_of(c)
        for average in averages(seed, thorough):
            options = {"average": average, "zero_division": 0, "labels": None if average else range(CLASSES)}
            expected = sk.precision_recall_fscore_support(truth, guess, **options)[:3]
            for own, reference in zip((metrics.precision, metrics.recall, metrics.f1), expected, strict=True):
                yield gap(own(matrix, average), reference)
            yield gap(metrics.dice(matrix, average), expected[2])
            yield gap(metrics.iou(matrix, average), sk.jaccard_score(truth, guess, **options))


def score_gaps(name):
    """Scores of a matrix for which scikit-learn needs labels; undefined scores are 0."""
    weights = {"linear_kappa": "linear", "quadratic_kappa": "quadratic"}.get(name)
    for seed in range(CASES):
        c = alone(case(seed))
        matrix, truth, guess = matrix_of(c), c["label"], c["logits"].argmax(-1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, that classes are absent
            if not len(truth):
                expected = 0.0
            elif name.endswith("kappa"):
                expected = sk.cohen_kappa_score(
                    truth, guess, labels=range(CLASSES), weights=weights, replace_undefined_by=0.0
                )
            else:
                expected = {
                    "balanced": sk.balanced_accuracy_score,
                    "matthews": sk.matthews_corrcoef,
                    "accuracy": sk.accuracy_score,
                }[name](truth, guess)
        own = {
            "balanced": metrics.balanced_accuracy,
            "matthews": metrics.matthews,
            "accuracy": metrics.accuracy_of,
        }.get(name)
        yield gap(own(matrix) if own else metrics.cohen_kappa(matrix, weights), expected)


def defined(labels, both=True):
    """Classes with positives, and negatives."""
    return (labels.sum(0) > 0) & ((labels.sum(0) < len(labels)) | (not both))


def area_gaps(own, reference, both, kind, thorough):
    """Areas of the columns that scikit-learn defines, and their averages."""
    for seed in range(CASES):
        c = alone(case(seed))
        if not len(c["label"]):
            continue
        truth = c["several"] if kind == "multilabel" else np.eye(CLASSES, dtype=int)[c["label"]]
        labels, scores = c["several"] if kind == "multilabel" else c["label"], c["logits"]
        good = defined(truth, both)
        for average in averages(seed, thorough):
            if average == "micro" and defined(truth.ravel(), both):
                yield gap(own(scores, labels, "micro"), reference(truth.ravel(), scores.ravel()))
            elif average in ("macro", "weighted"):
                expected = reference(truth[:, good], scores[:, good], average=average) if good.any() else np.nan
                yield gap(own(scores, labels, average), expected)
            elif average is None:
                expected = np.full(CLASSES, np.nan)
                expected[good] = [reference(truth[:, k], scores[:, k]) for k in np.flatnonzero(good)]
                yield gap(own(scores, labels, None), expected)
                yield max(gap(own(scores[:, k], truth[:, k]), expected[k]) for k in range(CLASSES))


def curve_gaps():
    for seed in range(CASES):
        c = alone(case(seed))
        if not len(c["label"]):
            continue
        scores, labels = c["logits"][:, 0], c["several"][:, 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, that a curve is not defined
            for own, expected in zip(
                metrics.roc_curve(scores, labels), sk.roc_curve(labels, scores, drop_intermediate=False), strict=True
            ):
                yield gap(np.where(np.isinf(own), 9, own), np.where(np.isinf(expected), 9, expected))
            own, expected = metrics.pr_curve(scores, labels), sk.precision_recall_curve(labels, scores)
        yield max(gap(own.precision, expected[0]), gap(own.thresholds, expected[2]))
        if labels.any():
            yield gap(own.recall, expected[1])
        else:
            assert np.isnan(own.recall[:-1]).all() and (expected[1][:-1] == 1).all()


def binned_gaps(multilabel, bins=64):
    """How far the exact areas lie outside the bounds: never, with few bins and many."""
    exact = jax.jit(lambda x: x if multilabel else metrics.log_odds(x))
    label = "several" if multilabel else "label"
    for seed, (c, value) in enumerate(computed(metrics.binned_scores(CLASSES, bins, multilabel), label=label)):
        scores = np.asarray(exact(case(seed)["logits"]))[case(seed)["row_mask"] > 0]
        for name, area in (("roc_auc", metrics.roc_auc), ("pr_auc", metrics.pr_auc)):
            if not len(scores):
                assert np.isnan(value[name]) and np.isnan(value[f"{name}_by_class"]).all()
                continue
            own, error, each = value[f"{name}_by_class"], value[f"{name}_error_by_class"], area(scores, c[label], None)
            assert np.array_equal(np.isnan(own), np.isnan(each))
            yield float(np.nan_to_num(np.abs(own - each) - error).max())
            if not np.isnan(each).all():
                yield abs(value[name] - np.nanmean(each)) - value[f"{name}_error"]


def value_gaps(metric, reference):
    for c, value in computed(metric, "guesses", "values"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scikit-learn, that R2 is not defined for one row
            yield gap(
                value,
                reference(c["values"].astype(np.float64), c["guesses"].astype(np.float64))
                if len(c["values"])
                else np.nan,
            )


def r2_gaps():
    """Relative to 1 - R2: labels around 1,000 lose no digits."""
    for c, value in computed(metrics.r2, "guesses", "values"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = (
                sk.r2_score(c["values"].astype(np.float64), c["guesses"].astype(np.float64))
                if len(c["values"])
                else np.nan
            )
        yield gap(value, expected) / max(1, 1 - np.nan_to_num(expected))


def averaged(thorough):
    """What has averages; as (its 200 cases, tolerance)."""
    areas = {
        "roc_auc": (metrics.roc_auc, sk.roc_auc_score, True),
        "pr_auc": (metrics.pr_auc, sk.average_precision_score, False),
    }
    kinds = ("classes", "multilabel")
    out = {f"scores, {kind}": (functools.partial(averaged_gaps, kind, thorough), 1e-12) for kind in kinds}
    return out | {
        f"{n}, {kind}": (functools.partial(area_gaps, *a, kind, thorough), 1e-12)
        for n, a in areas.items()
        for kind in kinds
    }


ALL = {
    "confusion": (confusion_gaps, 0),
    "accuracy": (accuracy_gaps, 1e-7),
    "top_1": (lambda: top_k_gaps(1), 1e-7),
    "top_4": (lambda: top_k_gaps(4), 1e-7),
    "top_7 of 5": (lambda: top_k_gaps(7), 1e-7),
    "brier": (brier_gaps, 1e-6),
    "brier of two": (brier_of_two_gaps, 1e-6),
    "calibration": (calibration_gaps, 1e-6),
    "multilabel_confusion": (multilabel_confusion_gaps, 0),
    "accuracy_of": (lambda: score_gaps("accuracy"), 1e-12),
    "balanced_accuracy": (lambda: score_gaps("balanced"), 1e-12),
    "cohen_kappa": (lambda: score_gaps("kappa"), 1e-12),
    "cohen_kappa linear": (lambda: score_gaps("linear_kappa"), 1e-12),
    "cohen_kappa quadratic": (lambda: score_gaps("quadratic_kappa"), 1e-12),
    "matthews": (lambda: score_gaps("matthews"), 1e-12),
    "curves": (curve_gaps, 1e-12),
    "binned_scores": (lambda: binned_gaps(False), 1e-12),
    "binned_scores, multilabel": (lambda: binned_gaps(True, 7), 1e-12),
    "mae": (lambda: value_gaps(metrics.mae, sk.mean_absolute_error), 1e-6),
    "rmse": (lambda: value_gaps(metrics.rmse, sk.root_mean_squared_error), 1e-6),
    "r2": (r2_gaps, 1e-6),
    **averaged(False),
}


def check(gaps, tolerance):
    with np.errstate(divide="raise"):
        found = list(gaps())
    assert len(found) >= CASES // 2 and max(found) <= tolerance
    return max(found)


@pytest.mark.parametrize("name", ALL)
def test_200_cases_equal_scikit_learn(name):
    check(*ALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", averaged(True))
def test_200_cases_with_every_average(name):
    check(*averaged(True)[name])


if __name__ == "__main__":
    for name, (gaps, tolerance) in (ALL | averaged(True)).items():
        print(f"{name}: {check(gaps, tolerance):.1e}")
