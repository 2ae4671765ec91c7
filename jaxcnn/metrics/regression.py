"""Metrics of values: MAE, RMSE and R2 of numbers, PSNR and SSIM of images."""

from fractions import Fraction
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.core.types import Batch, InputError, Mean, Metric, align, check_numbers, row_mask
from jaxcnn.metrics.sums import entry, mean

Array = jax.Array
LOWEST, LIMB, LIMBS = -120, 8, 31  # digits in base 2**8, from 2**-120 up to the largest float32


class RootMean(NamedTuple):
    """Sum of the squares of each column, and the number of rows."""

    total: Any  # [T]
    weight: Any

    def compute(self) -> float:
        """Return the root mean square, averaged over the columns; NaN without rows."""
        return float(np.sqrt(np.asarray(self.total) / self.weight).mean()) if float(self.weight) else float("nan")


class R2(NamedTuple):
    """Squared errors, and exact sums of the labels y and of their squares: h*h, 2*h*l and l*l, where y = h + l."""

    error: Any  # [T]
    digits: Any  # [T, 4, LIMBS] int32
    weight: Any

    def compute(self) -> float:
        """Return R2, averaged over the columns; NaN with fewer than two rows or with values that are not finite."""
        error, n = np.asarray(self.error, np.float64), int(self.weight)
        if n < 2 or not np.isfinite(error).all():
            return float("nan")
        scores = []
        for e, digits in zip(error, np.asarray(self.digits), strict=True):
            total, *squares = (Fraction(sum(int(d) << (LIMB * k) for k, d in enumerate(x)), 2**-LOWEST) for x in digits)
            spread = sum(squares) - total * total / n  # exact fractions, so nothing cancels
            scores.append(1 - float(Fraction(e) / spread) if spread else float(e == 0))
        return float(np.mean(scores))


def mae(outputs: Array, batch: Batch) -> Mean:
    """Mean absolute error; outputs and labels are `[B, ...]`, or outputs `[B, 1]` and labels `[B]`."""
    label, outputs = _pair(outputs, batch, "label")
    return mean(jnp.abs(outputs - label), batch)


def rmse(outputs: Array, batch: Batch) -> RootMean:
    """Root of the mean squared error.

    Outputs and labels are `[B]` or `[B, T]`; with T columns it is the mean of their roots, as in scikit-learn. With
    more axes, all positions of all rows form one column.
    """
    label, outputs, counts = _columns(outputs, batch)
    return RootMean(jnp.where(counts, (outputs - label) ** 2, 0).sum(0), counts[:, 0].sum(dtype=jnp.int32))


def r2(outputs: Array, batch: Batch) -> R2:
    """Coefficient of determination, 1 - (squared errors) / (squared deviations of the labels from their mean).

    Shapes are those of `rmse`; with T columns it is the mean. As in scikit-learn, constant labels give 1 if every
    output is right and 0 otherwise, and fewer than two rows give NaN. The deviations are exact even for labels far from
    0, whose float32 squares would cancel: sums are kept in 8-bit digits. Labels of 1.8e19 and more, or not finite, make
    it NaN.
    """
    label, outputs, counts = _columns(outputs, batch)
    high = lax.reduce_precision(label, exponent_bits=8, mantissa_bits=11)
    low = label - high  # 12 bits each, so that products are exact
    parts = jnp.stack([label, high * high, 2 * high * low, low * low], -1)
    sound = jnp.where(jnp.isfinite(parts).all(-1), 0, jnp.nan)
    error = jnp.where(counts, (outputs - label) ** 2 + sound, 0).sum(0)
    return R2(error, _digits(jnp.where(counts[..., None], parts, 0)), counts[:, 0].sum(dtype=jnp.int32))


class Agreement(NamedTuple):
    """Counts by bin of the label (rows) and bin of the output (columns)."""

    counts: Any  # [bins, bins]

    def compute(self) -> np.ndarray:
        """Return the counts, int64."""
        return np.asarray(self.counts).astype(np.int64)


def agreement(low: float, high: float, bins: int = 32) -> Metric:
    """Count labels and outputs on a grid, for a figure of predictions by target.

    Values that are not finite do not count.

    Args:
        low: start of the first bin, which also counts everything below.
        high: end of the last bin, which also counts everything above.
        bins: number of bins along each axis.

    Raises:
        InputError: limits that are not finite or not in order, or fewer than one bin.

    """
    check_numbers(high=high, low=low)
    if not (-float("inf") < low < high < float("inf") and bins > 0):
        raise InputError(f"low={low}, high={high}, bins={bins}: must be finite limits in order, and at least one bin")

    def metric(outputs: Array, batch: Batch) -> Agreement:
        label, outputs, counts = (x.reshape(-1) for x in _columns(outputs, batch))
        known = counts & jnp.isfinite(label) & jnp.isfinite(outputs)

        def place(x):
            return jnp.clip((jnp.where(known, x, low) - low) / (high - low) * bins, 0, bins - 1).astype(jnp.int32)

        return Agreement(
            jnp.zeros((bins, bins), jnp.int32).at[place(label), place(outputs)].add(known.astype(jnp.int32))
        )

    return metric


def psnr(data_range: float, key: str = "label") -> Metric:
    """Peak signal-to-noise ratio in dB, `10 log10(data_range**2 / mean squared error)`, averaged over the images.

    An image that is reproduced exactly has an infinite ratio, and then the mean is infinite too.

    Args:
        data_range: difference between the largest and the smallest possible pixel: 1 or 255.
        key: entry of the batch that the outputs are compared with, `[B, ...]`; `"image"` for an autoencoder.

    Raises:
        InputError: a range that is not positive.

    """
    _positive(data_range)

    def metric(outputs: Array, batch: Batch) -> Mean:
        target, outputs = _pair(outputs, batch, key)
        error = ((outputs - target) ** 2).mean(tuple(range(1, target.ndim)))
        return mean(10 * jnp.log10(data_range**2 / error), batch)

    return metric


def ssim(data_range: float, key: str = "label") -> Metric:
    """Structural similarity, -1..1, averaged over windows, channels and images.

    Windows are Gaussian, 11x11, with a standard deviation of 1.5 pixels, and lie inside the image; K1 = 0.01, K2 =
    0.03.

    Reference: Wang et al., 2004, doi:10.1109/TIP.2003.819861.

    Args:
        data_range: difference between the largest and the smallest possible pixel: 1 or 255.
        key: entry of the batch that the outputs are compared with, `[B, H, W, C]`.

    Raises:
        InputError: a range that is not positive or, when traced, the wrong number of axes or fewer than 11 pixels per
            side.

    """
    _positive(data_range)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2

    def metric(outputs: Array, batch: Batch) -> Mean:
        target, outputs = _pair(outputs, batch, key)
        if target.ndim != 4 or min(target.shape[1:3]) < 11:
            raise InputError(
                f"{key} shape {tuple(target.shape)}: must be [B, H, W, C] with at least 11 pixels each way"
            )
        middle = target.mean((1, 2), keepdims=True)  # a shift keeps the variances, and saves digits
        a, b = outputs - middle, target - middle
        a, b, aa, bb, ab = jnp.split(_blurred(jnp.concatenate([a, b, a * a, b * b, a * b], -1)), 5, -1)
        variances, covariance = jnp.maximum(aa - a * a, 0) + jnp.maximum(bb - b * b, 0), ab - a * b
        a, b = a + middle, b + middle
        values = (2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (variances + c2))
        return mean(values.mean((1, 2, 3)), batch)

    return metric


def _blurred(x: Array) -> Array:
    """Gaussian mean of every 11x11 window inside `[B, H, W, C]`."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = (window / window.sum()).astype(np.float32)
    for axis in (1, 2):
        room = x.shape[axis] - 10
        x = cast(Array, sum(w * lax.slice_in_dim(x, i, i + room, axis=axis) for i, w in enumerate(window)))
    return x


def _digits(values: Array) -> Array:
    """Exact sums over the first axis, `[N, ...]` to int32 `[..., LIMBS]`.

    Every float32 is a few digits, and integers add exactly. One call takes up to 2**23 rows; the carry leaves room to
    add up 2**16 such sums.
    """
    units = (2.0 ** -(LOWEST + LIMB * np.arange(LIMBS))).astype(np.float32).reshape((1,) * values.ndim + (-1,))
    scaled = jnp.floor(jnp.minimum(jnp.abs(values)[..., None] * units, 2.0**40))  # at the cap, the digit is 0
    digits = (jnp.sign(values)[..., None] * (scaled - 256 * jnp.floor(scaled / 256))).astype(jnp.int32).sum(0)
    carry = digits[..., :-1] >> LIMB
    zero = jnp.zeros_like(digits[..., :1])
    return digits - jnp.concatenate([carry << LIMB, zero], -1) + jnp.concatenate([zero, carry], -1)


def _pair(outputs: Array, batch: Batch, key: str) -> tuple[Array, Array]:
    """Return targets and outputs in float32, with the same shape."""
    target = entry(batch, key)
    if outputs.shape != target.shape and outputs.shape != (*target.shape, 1):
        raise InputError(
            f"outputs of shape {tuple(outputs.shape)}, {key!r} of shape {tuple(target.shape)}: must have the same shape"
        )
    return target.astype(jnp.float32), outputs.reshape(target.shape).astype(jnp.float32)


def _columns(outputs: Array, batch: Batch) -> tuple[Array, Array, Array]:
    """Return labels and outputs `[N, T]`, and which of them count; T is 1 unless labels are `[B, T]`."""
    label, outputs = _pair(outputs, batch, "label")
    counts = jnp.broadcast_to(align(row_mask(batch), label) > 0, label.shape)
    columns = label.shape[1] if label.ndim == 2 else 1
    label, outputs, counts = (x.reshape(-1, columns) for x in (label, outputs, counts))
    return label, outputs, counts


def _positive(data_range: float) -> None:
    if not 0 < data_range < float("inf"):
        raise InputError(f"data_range={data_range}: must be positive, such as 1 or 255")
