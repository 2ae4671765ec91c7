"""Active learning: which rows to label next, from probabilities, from samples of dropout, or from vectors.

Scores are higher for rows that are more useful. `highest` and `k_centre` return row numbers, `linear_head` learns from
the labels so far in a moment, and `rounds` is the loop of labelling and training.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxcnn.core.types import Batch, FrozenState, InputError, Task, Tree, check_numbers, check_whole
from jaxcnn.data.order import checked_rows
from jaxcnn.tasks.classification import check_one_label, probabilities
from jaxcnn.train.evaluation import collect

Array = jax.Array
TOLERANCE = 1e-3  # how far the sum of probabilities may be from 1
LEAST = 1e-3  # probability of a class that a prior does not know
LARGEST = 1e18  # a value of a vector, over its length; squared distances fit into float32
BLOCK = 2048  # rows whose distances are computed at once


def least_confidence(probabilities: Any) -> np.ndarray:
    """Return 1 - the probability of the likeliest class, `[N]`.

    Args:
        probabilities: `[N, K]`, rows that sum to 1.

    Raises:
        InputError: the array is not one of probabilities.

    """
    return 1 - _checked(probabilities).max(-1)


def margin(probabilities: Any) -> np.ndarray:
    """Return 1 - the difference of the two likeliest classes, `[N]`; arguments as in `least_confidence`."""
    top = np.sort(_checked(probabilities), -1)
    return 1 - (top[:, -1] - top[:, -2])


def entropy(probabilities: Any) -> np.ndarray:
    """Return the entropy in nats, `[N]`; arguments as in `least_confidence`."""
    return _entropy(_checked(probabilities))


def bald(samples: Any) -> np.ndarray:
    """Return the mutual information in nats between a row's class and the network, `[N]`.

    It is high where each sample is sure and samples disagree: the entropy of the mean minus the mean of the entropies.

    Args:
        samples: `[N, S, K]`, probabilities by S networks, such as those that dropout draws; see `dropout_samples`.

    Raises:
        InputError: the array is not one of probabilities.

    References: Houlsby et al., 2011, arXiv:1112.5745; Gal et al., 2017, arXiv:1703.02910.

    """
    found = _checked(samples, 3)
    return np.maximum(_entropy(found.mean(1)) - _entropy(found).mean(1), 0)


def highest(scores: Any, count: int, *, taken: Sequence[int] | np.ndarray = ()) -> np.ndarray:
    """Return the rows with the highest scores, the highest first; of equal scores, the lower number first.

    Args:
        scores: `[N]`.
        count: number of rows, at least 0; fewer are returned where there are fewer.
        taken: rows that are left out, such as those with a label.

    Raises:
        InputError: a score is NaN, or a number is out of range.

    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise InputError(f"scores of shape {scores.shape}: must be [N], without NaN")
    free = _free(len(scores), count, taken)
    return free[np.argsort(-scores[free], kind="stable")][:count]


def at_random(size: int, count: int, *, taken: Sequence[int] | np.ndarray = (), seed: int = 0) -> np.ndarray:
    """Return rows drawn at random without repetition; arguments as in `highest`, of `size` rows."""
    check_whole("size", size, 0)
    check_whole("seed", seed, 0)
    return np.random.default_rng(seed).permutation(_free(size, count, taken))[:count]


def k_centre(
    vectors: Any, count: int, *, taken: Sequence[int] | np.ndarray = (), first: int | None = None
) -> np.ndarray:
    """Return rows that cover the others: each is the one farthest from all rows that are taken or chosen before.

    The largest distance of a row to the nearest chosen one is at most twice the smallest possible (Gonzalez, 1985).

    Args:
        vectors: `[N, D]`, such as the features of a network. Distances are Euclidean.
        count: as in `highest`.
        taken: rows that count as chosen already, such as those with a label.
        first: row to begin with where none is taken; by default the one nearest to the mean.

    Returns:
        Row numbers in the order of the choice; of equally far rows, the lower number.

    Raises:
        InputError: a vector is not finite, or a number is out of range.

    Reference: Sener and Savarese, 2018, arXiv:1708.00489 (its greedy algorithm).

    """
    x = _finite(vectors)
    x = x - x.mean(0)  # before the digits of float32 are lost
    x = (x / max(np.abs(x).max(initial=0), 1e-300)).astype(np.float32)
    free = _free(len(x), count, taken)
    count, taken, chosen = min(count, len(free)), np.asarray(taken, np.int64), list[int]()
    if first is not None:
        check_whole("first", first, 0)
        if first >= len(x):
            raise InputError(f"first={first}: must be the number of one of the {len(x)} rows")
    nearest = np.full(len(x), np.inf, np.float32)
    for row in taken:
        np.minimum(nearest, _squared(x, x[row]), out=nearest)
    nearest[taken] = -1
    while len(chosen) < count:
        start = not chosen and not len(taken)
        begin = int(_squared(x, x.mean(0)).argmin()) if first is None else first
        row = begin if start else int(nearest.argmax())
        chosen.append(row)
        np.minimum(nearest, _squared(x, x[row]), out=nearest)
        nearest[row] = -1
    return np.array(chosen, np.int64)


def dropout_samples(
    task: Task, variables: Tree, data: Any, samples: int = 20, *, seed: int = 0, batch_size: int = 256
) -> np.ndarray:
    """Return the probabilities of every row by networks from which dropout takes units, for `bald`.

    Norms use their running statistics. The same units are drawn for every batch.

    Args:
        task: a classification task with one label per row.
        variables: variables of its model, which has dropout.
        data: the rows; their labels do not matter, but must be there.
        samples: number of networks, at least 2.
        seed: seed of the draws.
        batch_size: rows per batch.

    Returns:
        float32 `[N, samples, K]`.

    Raises:
        InputError: a number is out of range, rows have several labels, or the network has no dropout: all samples are
            equal.

    Reference: Gal and Ghahramani, 2016, arXiv:1506.02142.

    """
    check_whole("samples", samples, 2)
    check_whole("batch_size", batch_size, 1)
    check_whole("seed", seed, 0)
    check_one_label(task, "dropout_samples")

    @functools.wraps(task.predict)  # and with its check of the rows
    def predict(variables: Tree, batch: Batch) -> Array:
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def one(key: Array) -> Array:
            logits = task.loss(params, FrozenState(state), batch, key)[1][0]
            return probabilities(logits, "sigmoid" if logits.shape[-1] == 1 else "softmax")

        return jax.lax.map(one, jax.random.split(jax.random.key(seed), samples)).swapaxes(0, 1)

    found, _ = collect(predict, variables, data, batch_size=batch_size)
    if len(found) and (found == found[:, :1]).all():
        raise InputError("dropout_samples: all samples are equal; give a network with dropout, such as dropout=0.5")
    return found


def linear_head(
    vectors: Any, labelled: Any, label: Any, num_classes: int, *, prior: Any = None, penalty: float = 1.0
) -> np.ndarray:
    """Return the probabilities of all rows by logistic regression on frozen features, trained on a few labels.

    With a `prior`, the regression learns what to add to its logarithms, which with few labels is little.

    Args:
        vectors: features of all rows, `[N, D]`; they are centred and scaled here.
        labelled: numbers of the rows with a label, `[M]`, at least one.
        label: their classes, `[M]`.
        num_classes: K, at least 2.
        prior: probabilities of all rows, `[N, K]`, such as those of the network that made the features; a class that it
            does not know may have 0. None for equal ones.
        penalty: half of it is multiplied with the sum of squared weights, and added to the sum of the losses; above 0.

    Returns:
        float64 `[N, K]`.

    Raises:
        InputError: the shapes do not fit, a value is not finite, or a number is out of range.

    Reference: Cox, The Regression Analysis of Binary Sequences, 1958; the prior is an offset of the logits.

    """
    import scipy.optimize
    import scipy.special

    x, y = _finite(vectors), np.asarray(label)
    check_whole("num_classes", num_classes, 2)
    check_numbers(penalty=penalty)
    if not 0 < penalty < np.inf:
        raise InputError(f"penalty={penalty}: must be above 0")
    rows = checked_rows(labelled, len(x), "labelled")
    if y.shape != rows.shape or not len(rows) or y.dtype.kind not in "iu":
        raise InputError(f"labelled {rows.shape}, label {y.dtype} {y.shape}: must be integers [M], at least one")
    if y.min() < 0 or y.max() >= num_classes:
        raise InputError(
            f"label: must be from 0 to {num_classes - 1}, and one is {y.min() if y.min() < 0 else y.max()}"
        )
    p = np.ones((len(x), num_classes)) if prior is None else np.asarray(prior, np.float64)
    if p.shape != (len(x), num_classes) or not ((p >= 0) & (p < np.inf)).all():
        raise InputError(f"prior of shape {p.shape}: must be [{len(x)}, {num_classes}], finite, at least 0")
    x = x - x.mean(0)
    x = x / max(float(np.sqrt(np.square(x).sum(1).mean())), 1e-12)
    x, offset = np.concatenate([x, np.ones((len(x), 1))], 1), np.log(np.maximum(p, LEAST))
    seen, wanted = x[rows], np.eye(num_classes)[y]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(x.shape[1], num_classes)
        log_p = scipy.special.log_softmax(offset[rows] + seen @ w, -1)
        slope = seen.T @ (np.exp(log_p) - wanted) + penalty * w
        return float(-(log_p * wanted).sum() + penalty / 2 * np.square(w).sum()), slope.reshape(-1)

    begin = np.zeros(x.shape[1] * num_classes)
    found = scipy.optimize.minimize(objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    return scipy.special.softmax(offset + x @ found.x.reshape(x.shape[1], num_classes), -1)


class Round(NamedTuple):
    """One round of active learning: its number from 0, the rows with a label so far, and what training returned."""

    number: int
    labelled: np.ndarray
    result: Any


def rounds(
    train: Callable[[np.ndarray], Any], choose: Callable[[Any, np.ndarray], Any], labelled: Any, count: int
) -> Iterator[Round]:
    """Train, choose rows to label, and train again with these; a generator that you may leave at any time.

    Args:
        train: function from the numbers of the rows with a label, ascending, to a result, such as variables. It asks
            whoever has the labels.
        choose: function from the result and the labelled rows to the numbers of further rows.
        labelled: rows with a label at first.
        count: number of rounds, at least 1.

    Yields:
        A `Round` for each training.

    Raises:
        InputError: no rounds, rows are a mask, or `choose` returned a row twice, or one that has a label.

    """
    check_whole("count", count, 1)
    rows = np.unique(checked_rows(labelled, None, "labelled"))
    for number in range(count):
        result = train(rows)
        yield Round(number, rows, result)
        if number == count - 1:
            return
        more = checked_rows(np.ravel(choose(result, rows)), None, "choose")
        joined = np.unique(np.concatenate([rows, more]))
        if len(joined) < len(rows) + len(more):
            raise InputError("choose: returned a row twice, or one that has a label; leave out the rows in `taken`")
        rows = joined


def _free(size: int, count: int, taken: Any) -> np.ndarray:
    """Return the numbers of the rows that are not taken."""
    check_whole("count", count, 0)
    inside = np.ones(size, bool)
    inside[checked_rows(taken, size, "taken")] = False
    return np.flatnonzero(inside)


def _finite(vectors: Any) -> np.ndarray:
    """Return vectors as float64, `[N, D]`, whose squared distances are finite in float32."""
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InputError(f"vectors of shape {x.shape}: must be finite, [N, D]")
    if (np.abs(x) > LARGEST / max(x.shape[1], 1)).any():
        raise InputError(f"vectors: a value of {np.abs(x).max():.3g} is too large to square; scale the vectors down")
    return x


def _squared(x: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Return squared distances to one point, `[N]`, by differences, which are exact for equal rows."""
    parts = [np.square(x[i : i + BLOCK] - centre).sum(1) for i in range(0, len(x), BLOCK)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def _checked(probabilities: Any, axes: int = 2) -> np.ndarray:
    p = np.asarray(probabilities, np.float64)
    form = "[N, K]" if axes == 2 else "[N, S, K]"
    if p.ndim != axes or p.shape[-1] < 2:
        raise InputError(f"probabilities of shape {p.shape}: must be {form} with at least two classes")
    if not ((p >= 0).all() and (np.abs(p.sum(-1) - 1) < TOLERANCE).all()):
        raise InputError("probabilities: must be at least 0, and sum to 1 over the classes; take the softmax of logits")
    return p
