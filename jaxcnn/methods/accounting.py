"""What differentially private training spends: epsilon for a given noise, and the noise for a given epsilon.

The functions are also names of `methods.private`.
"""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator
from typing import Any, Literal

from jaxcnn.core.types import InputError, check_numbers

Accountant = Literal["rdp", "pld"]


def epsilon(noise: float, rate: float, steps: int, delta: float, accountant: Accountant = "rdp") -> float:
    """Return the epsilon that DP-SGD with Poisson sampling has spent, for adding or removing one row.

    Args:
        noise: as in `private`, at least 0; 0 gives infinity.
        rate: probability of a row to be in a batch, in [0, 1].
        steps: number of updates, at least 0.
        delta: in (0, 1), usually less than one over the number of rows.
        accountant: `"rdp"` for Renyi differential privacy, or `"pld"` for the distribution of privacy loss, which is
            tighter and slower.

    Raises:
        InputError: a value is outside its range, or dp-accounting is not installed.

    Reference: Mironov et al., 2019, arXiv:1908.10530; Koskela et al., 2019, arXiv:1906.03049.

    """
    check_numbers(noise=noise, steps=steps)
    _check_budget(rate, delta, accountant)
    if not 0 <= noise < math.inf or not 0 <= steps < math.inf or steps != int(steps):
        raise InputError(f"noise={noise}, steps={steps}: must be finite and at least 0, and steps whole")
    if not steps or not rate:
        return 0.0
    if not noise:
        return math.inf
    dp = _library()
    with _quiet():
        return float(_accountant(accountant).compose(_event(dp, noise, rate, steps)).get_epsilon(delta))


def noise_for(target: float, rate: float, steps: int, delta: float, accountant: Accountant = "rdp") -> float:
    """Return the least noise with which training spends at most an epsilon of `target`.

    Args:
        target: epsilon, positive.
        rate: as in `epsilon`, above 0.
        steps: number of updates, at least 1.
        delta: as in `epsilon`.
        accountant: as in `epsilon`.

    Raises:
        InputError: a value is outside its range, no noise is enough, or dp-accounting is not installed.

    """
    check_numbers(target=target, steps=steps)
    _check_budget(rate, delta, accountant)
    if not 0 < target < math.inf or not rate or not 1 <= steps < math.inf or steps != int(steps):
        raise InputError(f"target={target}, rate={rate}, steps={steps}: must be positive, and steps whole")
    dp = _library()
    try:
        with _quiet():
            return float(
                dp.calibrate_dp_mechanism(
                    functools.partial(_accountant, accountant),
                    lambda noise: _event(dp, noise, rate, steps),
                    target,
                    delta,
                    dp.LowerEndpointAndGuess(0.0, 1.0),
                    tol=1e-4,
                )
            )
    except dp.mechanism_calibration.NoBracketIntervalFoundError as error:
        line = f"target={target}, delta={delta}: no noise was found that spends so little"
        raise InputError(f"{line}; give larger values, fewer steps or smaller batches") from error


def _check_budget(rate: float, delta: float, accountant: str) -> None:
    check_numbers(rate=rate, delta=delta)
    if not 0 <= rate <= 1:
        raise InputError(f"rate={rate}: must lie in 0..1, the batch size over the number of rows")
    if not 0 < delta < 1:
        raise InputError(f"delta={delta}: must be above 0 and below 1")
    if accountant not in ("rdp", "pld"):
        raise InputError(f"accountant={accountant!r}: must be 'rdp' or 'pld'")


def _library() -> Any:
    try:
        import dp_accounting
    except ImportError:
        raise InputError("dp-accounting is not installed: pip install -e '.[privacy]' in the clone of jaxcnn") from None
    return dp_accounting


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about orders that do not converge; the library then uses the best of the others."""
    log = logging.getLogger("absl")

    def other(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    log.addFilter(other)
    try:
        yield
    finally:
        log.removeFilter(other)


def _event(dp: Any, noise: float, rate: float, steps: int) -> Any:
    return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), int(steps))


def _accountant(name: str) -> Any:
    dp = _library()
    return dp.rdp.RdpAccountant() if name == "rdp" else dp.pld.PLDAccountant(value_discretization_interval=1e-3)
