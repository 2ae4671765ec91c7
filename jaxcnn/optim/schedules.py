"""Learning rates by step: functions from the number of the update to the rate, each with a warmup."""

import math
from collections.abc import Callable
from typing import Any

import optax

from jaxcnn.core.types import InputError, check_numbers, check_whole

Rate = float | Callable[[Any], Any]  # a number, or a schedule of the step


def constant(peak: float, *, warmup: int = 0) -> optax.Schedule:
    """Hold the rate at `peak`, after a linear rise over `warmup` steps."""
    _check(peak, warmup)
    return _warm(optax.constant_schedule(peak), peak, warmup)


def step(peak: float, *, boundaries: dict[int, float], warmup: int = 0) -> optax.Schedule:
    """Multiply the rate by a factor at each boundary.

    Args:
        peak: the rate up to the first boundary.
        boundaries: the step of each boundary to its factor, `{6_000: 0.1, 9_000: 0.1}`; steps of the warmup count.
        warmup: steps of a linear rise to `peak`.

    Raises:
        InputError: a boundary lies before the end of the warmup, or as `constant`.

    """
    _check(peak, warmup)
    if any(at < warmup for at in boundaries):
        raise InputError(f"boundaries={boundaries}: must not lie before the end of the warmup, step {warmup}")
    after = {at - warmup: factor for at, factor in boundaries.items()}
    return _warm(optax.piecewise_constant_schedule(peak, after), peak, warmup)


def cosine(peak: float, *, steps: int, warmup: int = 0, end: float = 0.0) -> optax.Schedule:
    """Rise to the peak, then fall along half a cosine.

    Args:
        peak: the highest rate.
        steps: of the whole schedule, after which the rate stays at `end`.
        warmup: steps of a linear rise to `peak`.
        end: the last rate.

    Raises:
        InputError: fewer steps than the warmup has, or as `constant`.

    Reference: Loshchilov and Hutter, 2016, arXiv:1608.03983.

    """
    _check(peak, warmup, steps)
    check_numbers(end=end)
    if not 0 <= end <= peak:
        raise InputError(f"end={end}: must be from 0 to the peak, {peak}")
    return _warm(optax.cosine_decay_schedule(peak, max(steps - warmup, 1), end / peak), peak, warmup)


def one_cycle(
    peak: float, *, steps: int, warmup: int | None = None, start: float = 0.04, end: float = 0.0
) -> optax.Schedule:
    """Rise along a cosine, then fall along one.

    Args:
        peak: the highest rate.
        steps: of the whole schedule.
        warmup: steps of the rise, by default 30 % of all.
        start: the first rate, as a share of `peak`.
        end: the last rate, as a share of `peak`.

    Raises:
        InputError: fewer steps than the warmup has, or as `constant`.

    Reference: Smith and Topin, 2017, arXiv:1708.07120.

    """
    warmup = round(0.3 * steps) if warmup is None else warmup
    _check(peak, warmup, steps)
    check_numbers(start=start, end=end)
    for name, share in (("start", start), ("end", end)):
        if not 0 <= share <= 1:
            raise InputError(f"{name}={share}: must be a share of the peak, from 0 to 1")
    rise = optax.cosine_decay_schedule(1.0, max(warmup, 1))
    fall = optax.cosine_decay_schedule(1.0, max(steps - warmup, 1))

    def up(t: Any) -> Any:
        return peak * (start + (1 - start) * (1 - rise(t)))

    def down(t: Any) -> Any:
        return peak * (end + (1 - end) * fall(t))

    return optax.join_schedules([up, down], [warmup])


def check_rate(rate: float) -> float:
    """Return a learning rate, or refuse one that is not a positive finite number."""
    check_numbers(learning_rate=rate)
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"learning_rate={rate}: must be a positive number")
    return rate


def _check(peak: float, warmup: int, steps: int | None = None) -> None:
    check_rate(peak)
    check_whole("warmup", warmup)
    if steps is not None:
        check_whole("steps", steps)
    if warmup < 0:
        raise InputError(f"warmup={warmup}: must be at least 0")
    if steps is not None and steps < max(warmup, 1):
        raise InputError(f"steps={steps}: must be at least 1, and no less than warmup={warmup}")


def _warm(schedule: optax.Schedule, peak: float, warmup: int) -> optax.Schedule:
    """Put a linear rise in front of a schedule; its first step is not 0, so that the first update already counts."""
    if not warmup:
        return schedule
    return optax.join_schedules([lambda t: peak * (t + 1) / warmup, schedule], [warmup])
