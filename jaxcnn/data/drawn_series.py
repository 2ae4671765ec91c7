"""Pictures of series: lines over time, on a background that shows what speaks for a class and what against it."""

import numpy as np

from jaxcnn.core.types import InputError, check_whole

# colours of channels, RGB; further channels begin again
COLOURS = ((0, 114, 178), (196, 78, 0), (0, 122, 90), (168, 71, 138), (26, 26, 26), (128, 96, 0))
FINE, MARGIN = 8, 3  # values that are drawn in a column of pixels; pixels above and below the lines


def series_picture(
    series: np.ndarray, weights: np.ndarray | None = None, *, height: int = 96, width: int = 320
) -> np.ndarray:
    """Draw a series, each channel between its own lowest and highest value.

    Args:
        series: `[T]` or `[T, C]`, floats, at least one step; what pads it is left out by the caller.
        weights: `[T]`, what each step speaks for, such as `explain.over_time`; None for a white background.
        height: pixels.
        width: pixels.

    Returns:
        uint8 `[height, width, 3]`; the background is red where a weight is positive and blue where it is negative.

    Raises:
        InputError: no steps, values that are not finite, weights of another length, or a size below 8 pixels.

    """
    x = np.asarray(series, np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or not x.size or not np.isfinite(x).all():
        raise InputError(f"series of shape {np.shape(series)}: must be finite numbers [steps] or [steps, channels]")
    if weights is not None and np.shape(weights) != (len(x),):
        raise InputError(f"weights of shape {np.shape(weights)}: must be {(len(x),)}, one for each step")
    for name, value in (("height", height), ("width", width)):
        check_whole(name, value)
    if min(height, width) < 8:
        raise InputError(f"height={height}, width={width}: must be at least 8 pixels")
    sheet = np.full((height, width, 3), 255, np.uint8)
    if weights is not None:
        at = (np.arange(width) * len(x) // width).clip(0, len(x) - 1)
        share = np.asarray(weights, np.float64)[at] / max(float(np.abs(weights).max()), 1e-12)
        faded = 0.6 * np.abs(share)[:, None]
        tint = np.where(share[:, None] > 0, (224, 68, 46), (59, 130, 214))
        sheet[:] = (255 * (1 - faded) + tint * faded).round().astype(np.uint8)
    rows = np.arange(height)[:, None]
    fine = np.linspace(0, len(x) - 1, FINE * width)
    for k, channel in enumerate(x.T):
        low, high = channel.min(), channel.max()
        level = np.interp(fine, np.arange(len(x)), (channel - low) / (high - low) if high > low else channel * 0 + 0.5)
        if len(x) > FINE * width:  # keep the peaks between the values that are drawn
            level = ((channel - low) / max(high - low, 1e-300))[: len(x) // width * width]
        place = (MARGIN + (1 - level) * (height - 1 - 2 * MARGIN)).reshape(width, -1)
        top, bottom = place.min(1), place.max(1)
        top[1:], bottom[1:] = np.minimum(top[1:], place[:-1, -1]), np.maximum(bottom[1:], place[:-1, -1])
        sheet[(rows >= np.floor(top)) & (rows <= np.ceil(bottom))] = COLOURS[k % len(COLOURS)]
    return sheet
