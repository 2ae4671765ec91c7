"""What each word of a text speaks for: the change of the answer when the word is left out."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError, is_integer
from jaxcnn.data import words

AT_ONCE = 64  # texts in one call


def erasure(
    predict: Callable[..., Any],
    variables: Any,
    row: np.ndarray,
    spans: Sequence[tuple[str, int, int]],
    target: int,
    *,
    fill: int = words.UNKNOWN,
    head: str = "softmax",
) -> list[tuple[str, float]]:
    """Measure what each word contributes to a class (Li et al., 2016, arXiv:1612.08220).

    The numbers of a word that is left out are replaced, so that the others keep their places.

    Args:
        predict: `predict` of a classification task on `"text"`.
        variables: the variables of the network.
        row: the numbers of a text, int `[T]`.
        spans: its words with their places, from `data.words.spans` or `data.words.row_spans`.
        target: the class, from 0.
        fill: the number that replaces others: an unknown word, or `data.words.SPACE` for bytes.
        head: the task's head; with `"multilabel"`, each label has log-odds of its own.

    Returns:
        The words in order, each with the change of the target's log-odds: positive where the word speaks for the class.

    Raises:
        InputError: there is no such class.

    """
    rows = np.repeat(np.asarray(row)[None], len(spans) + 1, 0)
    for n, (_, start, stop) in enumerate(spans, 1):
        rows[n, start:stop] = fill
    run, found = jax.jit(lambda variables, x: log_odds(predict(variables, {"text": x}), target, head)), []
    for start in range(0, len(rows), AT_ONCE):
        part = np.zeros((min(AT_ONCE, len(rows)), rows.shape[1]), rows.dtype)
        some = rows[start : start + AT_ONCE]
        part[: len(some)] = some
        found.append(np.asarray(run(variables, part))[: len(some)])
    odds = np.concatenate(found)
    return [(word, float(odds[0] - x)) for (word, _, _), x in zip(spans, odds[1:], strict=True)]


def log_odds(logits: jax.Array, target: int, head: str = "softmax") -> jax.Array:
    """Return the log-odds of a class from logits `[B, K]`, or from the one logit of two classes `[B, 1]`.

    Raises:
        InputError: there is no such class.

    """
    several = head == "multilabel"
    classes = logits.shape[-1] if several else max(logits.shape[-1], 2)
    if not is_integer(target) or not 0 <= target < classes:
        raise InputError(f"target={target}: must be a class from 0 to {classes - 1}")
    if several:
        return logits[:, target]
    if logits.shape[-1] == 1:
        return logits[:, 0] if target else -logits[:, 0]
    others = jax.numpy.delete(logits, target, axis=-1, assume_unique_indices=True)
    return logits[:, target] - jax.nn.logsumexp(others, -1)
