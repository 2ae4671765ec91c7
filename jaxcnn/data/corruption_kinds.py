"""The functions behind `data.corruptions`: an image `[H, W, C]` in 0..1 in, one of the same form out.

Each takes `(x, rng, pixel, *strength)`; `pixel` is the image's side over that for which the strengths were published.
"""

import io
import math
from typing import Any

import numpy as np


def gaussian_noise(x: np.ndarray, rng: np.random.Generator, pixel: float, scale: float) -> np.ndarray:
    """Add normal noise."""
    return x + scale * rng.standard_normal(x.shape)


def shot_noise(x: np.ndarray, rng: np.random.Generator, pixel: float, photons: float) -> np.ndarray:
    """Count photons."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, rng: np.random.Generator, pixel: float, share: float) -> np.ndarray:
    """Replace values by 0 or 1."""
    return np.where(rng.random(x.shape) < share, rng.integers(0, 2, x.shape), x)


def defocus_blur(x: np.ndarray, rng: np.random.Generator, pixel: float, radius: float, soft: float) -> np.ndarray:
    """Blur with a disk with a soft border."""
    from scipy import ndimage

    radius, soft = radius * pixel, soft * pixel
    reach = math.ceil(radius + 3 * soft) + 1
    places = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disk = ndimage.gaussian_filter(np.clip(1 + 3 * (radius - places), 0, 1), soft)  # hard at the published radii
    return _filtered(x, disk)


def glass_blur(
    x: np.ndarray, rng: np.random.Generator, pixel: float, sigma: float, reach: int, times: int
) -> np.ndarray:
    """Look up pixels at random places nearby, between two blurs."""
    from scipy import ndimage

    sigma, reach = sigma * pixel, max(round(reach * pixel), 1)
    x = ndimage.gaussian_filter(x, (sigma, sigma, 0))
    places = np.indices(x.shape[:2])
    for _ in range(times):
        moved = places + rng.integers(-reach, reach, places.shape)  # never by `reach` itself, as published
        rows, columns = (m.clip(0, n - 1) for m, n in zip(moved, x.shape, strict=False))
        x = x[rows, columns]
    return ndimage.gaussian_filter(x, (sigma, sigma, 0))


def motion_blur(x: np.ndarray, rng: np.random.Generator, pixel: float, length: float, sigma: float) -> np.ndarray:
    """Blur along a line."""
    return _filtered(x, _streak(length * pixel, sigma * pixel, math.radians(rng.uniform(-45, 45))))


def zoom_blur(x: np.ndarray, rng: np.random.Generator, pixel: float, most: float, step: float) -> np.ndarray:
    """Take the mean of enlarged images."""
    zooms = np.arange(1, most, step)
    return (x + sum(_zoomed(x, zoom) for zoom in zooms)) / (1 + len(zooms))


def snow(
    x: np.ndarray, rng: np.random.Generator, pixel: float, mean: float, scale: float, zoom: float, least: float,
    length: float, sigma: float, kept: float,
) -> np.ndarray:  # fmt: skip
    """Add bright streaks to a paler image."""
    flakes = _zoomed(rng.normal(mean, scale, x.shape[:2])[..., None], max(zoom * pixel, 1))
    flakes = np.where(flakes < least, 0, flakes).clip(0, 1)
    flakes = _filtered(flakes, _streak(length * pixel, sigma * pixel, math.radians(rng.uniform(-135, -45))))
    grey = _grey(x)
    return kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5) + flakes + flakes[::-1, ::-1]


def frost(x: np.ndarray, rng: np.random.Generator, pixel: float, kept: float, weight: float) -> np.ndarray:
    """Ice that is thick at the border: ridges of smooth noise, sharpened, in a bluish white."""
    noise = _smooth(rng, x.shape[:2], 2.0)
    ridges = (1 - np.abs(2 * noise - 1)) ** 6
    height, width = (np.abs(np.linspace(-1, 1, n)) for n in x.shape[:2])
    border = np.maximum(height[:, None], width[None])
    ice = np.clip(0.25 * border + ridges * (0.4 + 0.6 * border) + 0.15 * _smooth(rng, x.shape[:2], 1.3), 0, 1)
    tint = np.array([0.85, 0.95, 1.0]) if x.shape[-1] == 3 else np.ones(1)
    return kept * x + weight * ice[..., None] * tint


def fog(x: np.ndarray, rng: np.random.Generator, pixel: float, amount: float, decay: float) -> np.ndarray:
    """Add smooth noise, and scale to the former maximum."""
    top = x.max()
    noise = _smooth(rng, x.shape[:2], decay**2)  # the published code squares the number that decays
    return (x + amount * noise[..., None]) * top / (top + amount)


def brightness(x: np.ndarray, rng: np.random.Generator, pixel: float, more: float) -> np.ndarray:
    """Raise the value, with hue and saturation as they are."""
    value = x.max(-1, keepdims=True)
    brighter = (value + more).clip(0, 1)
    return np.where(value > 0, x * brighter / np.maximum(value, 1e-9), brighter)


def contrast(x: np.ndarray, rng: np.random.Generator, pixel: float, share: float) -> np.ndarray:
    """Move values towards their mean."""
    mean = x.mean((0, 1))
    return mean + share * (x - mean)


def elastic_transform(
    x: np.ndarray, rng: np.random.Generator, pixel: float, height: float, sigma: float, shear: float
) -> np.ndarray:
    """Move pixels by a random affine map and smooth displacements, all given as shares of the side."""
    from scipy import ndimage

    side = math.sqrt(x.shape[0] * x.shape[1])
    middle = (np.array(x.shape[:2]) - 1) / 2
    corners = np.array([[-1, -1], [-1, 1], [1, -1]]) * side / 3
    ends = corners + rng.uniform(-shear, shear, (3, 2)) * side
    known = np.concatenate([corners, np.ones((3, 1))], 1)
    matrix = np.linalg.solve(known, ends)  # [3, 2]: from places around the middle to those they are read from
    places = np.moveaxis(np.indices(x.shape[:2]), 0, -1) - middle
    source = places @ matrix[:2] + matrix[2] + middle
    for axis in (0, 1):
        field = rng.uniform(-1, 1, x.shape[:2])
        field = ndimage.gaussian_filter(field, sigma * side, mode="reflect") if sigma else field
        source[..., axis] += height * side * field
    where = np.moveaxis(source, -1, 0)
    planes = [ndimage.map_coordinates(x[..., c], where, order=1, mode="reflect") for c in range(x.shape[-1])]
    return np.stack(planes, -1)


def pixelate(x: np.ndarray, rng: np.random.Generator, pixel: float, share: float) -> np.ndarray:
    """Show fewer pixels."""
    from PIL import Image

    size = (x.shape[1], x.shape[0])
    few = tuple(max(int(n * share), 1) for n in size)
    small = _picture(x).resize(few, Image.Resampling.BOX)
    return _array(small.resize(size, Image.Resampling.NEAREST), x)


def jpeg_compression(x: np.ndarray, rng: np.random.Generator, pixel: float, quality: int) -> np.ndarray:
    """Compress with JPEG."""
    from PIL import Image

    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=quality)
    return _array(Image.open(file), x)


def _picture(x: np.ndarray) -> Any:
    from PIL import Image

    bytes_ = np.rint(x.clip(0, 1) * 255).astype(np.uint8)
    return Image.fromarray(bytes_[..., 0] if x.shape[-1] == 1 else bytes_)


def _array(picture: Any, like: np.ndarray) -> np.ndarray:
    return np.asarray(picture, np.float64).reshape(like.shape) / 255


def _filtered(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Correlate each channel with a kernel of sum 1."""
    from scipy import ndimage

    return ndimage.correlate(x, (kernel / kernel.sum())[..., None], mode="reflect")


def _streak(length: float, sigma: float, angle: float) -> np.ndarray:
    """Return the kernel of a line from the middle, twice as long as `length`, which fades like a Gaussian."""
    reach = max(math.ceil(2 * length), 1)
    kernel = np.zeros((2 * reach + 1,) * 2)
    far = np.linspace(0, 2 * length, 8 * reach + 1)
    weight = np.exp(-0.5 * (far / max(sigma, 1e-3)) ** 2)
    for y, x, w in zip(reach + far * math.sin(angle), reach + far * math.cos(angle), weight, strict=True):
        top, left = min(int(y), 2 * reach - 1), min(int(x), 2 * reach - 1)
        dy, dx = y - top, x - left
        kernel[top : top + 2, left : left + 2] += w * np.outer([1 - dy, dy], [1 - dx, dx])
    return kernel


def _zoomed(x: np.ndarray, zoom: float) -> np.ndarray:
    """Enlarge an image around its middle, at its size."""
    from scipy import ndimage

    middle = (np.array(x.shape[:2]) - 1) / 2
    matrix = np.diag([1 / zoom, 1 / zoom, 1])
    offset: Any = np.append(middle * (1 - 1 / zoom), 0)  # SciPy's stubs know a single number only
    return ndimage.affine_transform(x, matrix, offset, order=1, mode="nearest")


def _smooth(rng: np.random.Generator, shape: tuple[int, int], decay: float) -> np.ndarray:
    """Return a sum of smooth noise of many sizes, in 0..1; each is `decay` times weaker than one twice as large."""
    from scipy import ndimage

    side, total = 2 ** math.ceil(math.log2(max(*shape, 2))), np.zeros(shape)
    for octave in range(1, int(math.log2(side)) + 1):
        grid = rng.uniform(-1, 1, (2**octave + 1,) * 2)
        places = np.meshgrid(*(np.linspace(0, 2**octave * n / side, n) for n in shape), indexing="ij")
        total += decay ** (1 - octave) * ndimage.map_coordinates(grid, places, order=1, mode="nearest")
    total -= total.min()
    return total / max(total.max(), 1e-9)


def _grey(x: np.ndarray) -> np.ndarray:
    return x if x.shape[-1] == 1 else (x @ np.array([0.299, 0.587, 0.114]))[..., None]
