"""A verdict on a run from its curves: diverged, overfit, underfit, shifted, good or unknown, with the rule in words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

GAP, RISE, SKILL = 0.05, 0.2, 0.8
RULE = (
    "The first rule that fits decides. Diverged: a loss is not finite, or the last training loss is above twice the "
    f"lowest and above the first. Overfit: training accuracy is more than {100 * GAP:.0f} points, and more than three "
    "standard errors, above validation accuracy at the epoch whose weights were tested; or by the last epoch the "
    f"validation loss rose by {100 * RISE:.0f} % and by 0.02 from its lowest while the training loss fell. Underfit: "
    f"the better of both accuracies covers less than {100 * SKILL:.0f} % of the way from always guessing the most "
    f"frequent class to 100 %. Shifted: test accuracy is more than {100 * GAP:.0f} points, and more than three "
    "standard errors, below validation accuracy. Good: none of these. Training figures are means over an epoch, with "
    "augmentation and dropout where used; validation figures are from the end of the epoch."
)


RULE_LOSS = (
    "The first rule that fits decides. Diverged: a loss is not finite, or the last training loss is above twice the "
    f"lowest and above the first. Overfit: by the last epoch the validation loss rose by {100 * RISE:.0f} % from its "
    "lowest while the training loss fell. The other verdicts need an accuracy."
)


def diagnose(
    rows: Sequence[Mapping[str, Any]],
    chance: float | None,
    best_step: int | None = None,
    tested: tuple[float, int] | None = None,
) -> dict[str, str]:
    """Judge a run by its curves.

    Args:
        rows: lines of `metrics.jsonl`: `split`, `step`, `loss`, `accuracy`, `count`.
        chance: accuracy of always guessing the most frequent class, in [0, 1]; None if it is not known.
        best_step: step whose weights were tested; by default the last.
        tested: accuracy on the test rows, and their number.

    Returns:
        `{"verdict", "why", "advice", "rule"}`; the verdict is `"diverged"`, `"overfit"`, `"underfit"`, `"shifted"`,
        `"good"` or `"unknown"`.

    """
    train, valid = ([r for r in rows if r["split"] == split] for split in ("train", "validation"))
    verdict, why = _judge(train, valid, chance, best_step)
    at = _tested_at(valid, best_step)
    if verdict == "good" and tested:
        fall = at["accuracy"] - tested[0]
        if fall > max(GAP, 3 * _noise((at["accuracy"], at.get("count", 1)), tested)):
            verdict = "shifted"
            why = f"{why} Test accuracy is {100 * tested[0]:.1f} %, {100 * fall:.1f} points below it."
    return {"verdict": verdict, "why": why, "advice": ADVICE[verdict], "rule": RULE}


def diagnose_loss(rows: Sequence[Mapping[str, Any]], best_step: int | None = None) -> dict[str, str]:
    """Judge a run by its loss alone: diverged, overfit, or no verdict.

    Args:
        rows: lines of `metrics.jsonl`: `split`, `step`, `loss`.
        best_step: step whose weights were tested; by default the last.

    """
    train, valid = ([r for r in rows if r["split"] == split and "loss" in r] for split in ("train", "validation"))
    verdict, why = "unknown", "The log lacks losses of training or of validation."
    if train and valid:
        verdict, why = _diverged(train, valid) or _risen(train, valid, "") or ("unjudged", "")
        at = _tested_at(valid, best_step)
        if verdict == "unjudged":
            low = min(r["loss"] for r in valid)
            why = f"The validation loss is {at['loss']:.4g} at step {at['step']}, and {low:.4g} at its lowest."
    return {"verdict": verdict, "why": why, "advice": ADVICE[verdict], "rule": RULE_LOSS}


ADVICE = {
    "diverged": "Lower the learning rate, warm it up, or clip the gradient.",
    "overfit": "Try more data or augmentation, dropout or weight decay, a smaller network, or stopping earlier.",
    "underfit": "Train longer, with a higher learning rate or a larger network. If the labels are noisy, no network "
    "does better.",
    "shifted": "The test rows differ from the training rows (compare their groups with --group), or the validation "
    "rows are too similar to the training rows (one person in both).",
    "good": "The mistakes below show what is left to gain.",
    "unjudged": "Judge it by the task's own metrics.",
    "unknown": "Train for at least one epoch, with validation rows.",
}


def _judge(
    train: Sequence[Mapping[str, Any]], valid: Sequence[Mapping[str, Any]], chance: float | None, best: int | None
) -> tuple[str, str]:
    if not train or not valid:
        return "unknown", "The log lacks lines of training or of validation."
    if broken := _diverged(train, valid):
        return broken
    at = _tested_at(valid, best)
    beside = next((r for r in train if r["step"] == at["step"]), train[-1])
    seen, new = beside.get("accuracy"), at.get("accuracy")
    if seen is None or new is None or not math.isfinite(seen + new):
        return "unknown", "The log has no accuracy."
    reached = f"Training accuracy {100 * seen:.1f} %, validation accuracy {100 * new:.1f} % at step {at['step']}."
    if seen - new > max(GAP, 3 * _noise((seen, beside.get("count", 1)), (new, at.get("count", 1)))):
        return "overfit", f"{reached} The gap is {100 * (seen - new):.1f} points."
    if risen := _risen(train, valid, f"{reached} ", 0.02):
        return risen
    if chance is None:
        return "good", f"{reached} Other data were measured, so the share of the most frequent class is not known."
    if max(seen, new) - chance < SKILL * (1 - chance):
        return "underfit", f"{reached} Always guessing the most frequent class would give {100 * chance:.1f} %."
    return "good", reached


def _diverged(train: Sequence[Mapping[str, Any]], valid: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    losses = [r["loss"] for r in (*train, *valid) if "loss" in r]
    if not all(x is not None and math.isfinite(x) for x in losses):
        return "diverged", "A loss is not a finite number."
    fitted = [r["loss"] for r in train if "loss" in r]
    if fitted and fitted[-1] > 2 * min(fitted) and fitted[-1] > fitted[0]:
        return "diverged", f"The training loss ends at {fitted[-1]:.4g}, after {min(fitted):.4g} before."
    return None


def _risen(
    train: Sequence[Mapping[str, Any]], valid: Sequence[Mapping[str, Any]], before: str, least: float = 0.0
) -> tuple[str, str] | None:
    """Return a verdict if the validation loss rose from its lowest while the training loss fell; `before` begins it."""
    fitted = [r["loss"] for r in train if "loss" in r]
    low = min(valid, key=lambda r: r.get("loss", math.inf))
    then = next((r for r in train if r["step"] == low["step"]), train[0])
    risen = valid[-1].get("loss", 0) - low.get("loss", 0)
    if risen > max(RISE * abs(low.get("loss", 0)), least) and fitted and fitted[-1] < then.get("loss", 0):
        change = f"from {low['loss']:.4g} to {valid[-1]['loss']:.4g}"
        return "overfit", f"{before}The validation loss rose {change} while the training loss fell."
    return None


def _tested_at(valid: Sequence[Mapping[str, Any]], best: int | None) -> Mapping[str, Any]:
    """Return the line for the weights that were tested."""
    return next((r for r in valid if r["step"] == best), valid[-1] if valid else {})


def _noise(*shares: tuple[float, int]) -> float:
    """Standard error of the difference between two shares, given with their counts, if both are equal in truth."""
    counts = [max(count, 1) for _, count in shares]
    p = sum(share * count for (share, _), count in zip(shares, counts, strict=True)) / sum(counts)
    return math.sqrt(p * (1 - p) * sum(1 / count for count in counts))
