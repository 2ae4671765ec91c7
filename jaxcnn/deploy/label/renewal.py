"""What labels change: a linear head on a run's features updates order and suggestions; and what the run may decide."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.deploy.label.order import SCORES, Order, by_score
from jaxcnn.methods import active
from jaxcnn.metrics import wilson_interval
from jaxcnn.runs import protocol, read_data
from jaxcnn.tasks import probabilities
from jaxcnn.train.evaluation import collect


def renewed(order: Order, shares: np.ndarray, given: Mapping[int, int], different: int = 0) -> Order:
    """Return the order after a linear head on the run's features has learned from the labels of people.

    Args:
        order: the order so far, one of `SCORES`, with `vectors`.
        shares: probability of each class by the run, `[N, K]`; 0 for classes that it does not know.
        given: from the numbers of the images that people labelled to numbers of classes.
        different: see `ordered`.

    Returns:
        The order, with the head's probabilities; images with a label come last, in case they are taken back. It is as
        it was if there are fewer than two classes among the labels.

    """
    if order.vectors is None or order.name not in SCORES:
        raise InputError(f"--renew: goes with {', '.join(SCORES)}, not with {order.name}")
    if len(set(given.values())) < 2:
        return order
    rows = np.array(sorted(given), np.int64)
    good = np.array(sorted(set(range(len(shares))) - order.bad), np.int64)
    found = np.array(shares, np.float32)
    found[good] = active.linear_head(
        order.vectors[good], np.searchsorted(good, rows), [given[i] for i in rows.tolist()], shares.shape[1],
        prior=shares[good],
    )  # fmt: skip
    scores = SCORES[order.name](found)
    first = by_score(scores, order.vectors, rows.tolist(), order.bad, different)
    return order._replace(rows=np.concatenate([first, rows]), shares=found)


class Decided(NamedTuple):
    """What a run may decide itself.

    Attributes:
        threshold: least probability of the likeliest class at which it answers.
        rows: numbers of the images that it answers.
        line: says how the threshold was chosen.

    """

    threshold: float
    rows: np.ndarray
    line: str


def decided(loaded: Any, shares: np.ndarray, bad: frozenset[int], risk: float) -> Decided:
    """Choose on the run's validation rows which images the run may answer.

    Args:
        loaded: a run that `check_run` accepts.
        shares: probability of each of its classes for each image, `[N, K]`.
        bad: numbers of images that cannot be read.
        risk: highest share of wrong answers among the answered validation rows, 0..1.

    Raises:
        InputError: the validation rows cannot be read, or there are none.

    """
    try:
        data = read_data(loaded.config).valid
    except (InputError, OSError) as error:
        raise InputError(
            f"--reject {risk}: the run's validation rows cannot be read ({visible(reason(error)).split(';')[0]}); "
            "put the data back, or leave it out"
        ) from error
    if not data.size:
        raise InputError(f"--reject {risk}: the run has no validation rows; train with some, or leave it out")
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    logits, rows = collect(loaded.task.predict, loaded.variables, data, keep=("label",))
    p, label = np.asarray(probabilities(jnp.asarray(logits), head)), np.asarray(rows["label"])
    label = label.argmax(-1) if label.ndim == 2 and label.shape[1] > 1 else label.reshape(-1)
    known = (label >= 0) & (label < p.shape[1])
    if not known.any():
        raise InputError(f"--reject {risk}: no validation row of the run has a label; leave it out")
    confidence, right = p.max(-1)[known], (p.argmax(-1) == label)[known]
    found = protocol.reject(confidence, right, risk=risk)
    answered = int((confidence >= found.threshold).sum())
    sure = shares.max(-1) >= found.threshold
    sure[sorted(bad)] = False
    count = f"{answered:,} of {len(confidence):,} validation rows"
    if not answered:
        line = f"at no confidence are at most {100 * risk:g} % of the answers wrong; people decide all images"
    else:
        high = wilson_interval(found.risk, answered)[1]
        line = (
            f"the run answers from {found.threshold:.4f} on: {count}, of which {100 * found.risk:.2f} % are wrong (at "
            f"most {100 * high:.2f} %, 95 % interval); of the images, it answers {int(sure.sum()):,} of {len(shares):,}"
        )
    return Decided(found.threshold, np.flatnonzero(sure), line)
