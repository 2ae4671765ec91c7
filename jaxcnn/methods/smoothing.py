"""Randomised smoothing: a classifier of noisy images that provably keeps its answer within a distance.

The smoothed classifier answers with the class that a network gives most often for an image with Gaussian noise. Noisy
pixels are clipped to 0..1; that is part of the network which is smoothed, and the certificates hold with it. Networks
need training with the same noise: `jc.augmented(step, smoothing.gaussian_noise(sigma))`.

Reference: Cohen et al., 2019, arXiv:1902.02918.
"""

from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.core.collectives import draw
from jaxcnn.core.types import Batch, InputError, Tree, check_numbers, check_whole
from jaxcnn.methods.robustness import pixels, two
from jaxcnn.metrics.intervals import least_share
from jaxcnn.tasks.pixels import check_image, check_range

Array = jax.Array
Predict = Callable[[Tree, Batch], Array]
ABSTAIN = -1
LARGEST = 4  # standard deviation of noise; pixels lie in 0..1


class Certificate(NamedTuple):
    """What is known of the smoothed classifier at an image.

    Attributes:
        label: its class, or `ABSTAIN` where the votes are too close.
        radius: Euclidean distance in pixels of 0..1 within which it answers with this class; 0 where it abstains.
        least: lower bound of the share of noisy images that get this class.

    """

    label: int
    radius: float
    least: float


def gaussian_noise(sigma: float) -> Callable[[Array, Batch], Batch]:
    """Make the transform that adds Gaussian noise to images, for training.

    Args:
        sigma: standard deviation, for pixels in 0..1, at least 0; 0 changes nothing but the dtype.

    Returns:
        A transform of `image`, uint8 or float 0..1, to float 0..1.

    Raises:
        InputError: `sigma` is outside 0..4.

    """
    check_numbers(sigma=sigma)
    if not 0 <= sigma <= LARGEST:
        raise InputError(f"sigma={sigma}: must be from 0 to {LARGEST}, for pixels in 0..1 (64/255, not 64)")

    def change(key: Array, batch: Batch) -> Batch:
        image = pixels(batch)
        noise = draw(jax.random.normal, key, image.shape)
        return {**batch, "image": (image + sigma * noise).clip(0, 1)}

    return change


def counter(
    predict: Predict, sigma: float, *, batch_size: int = 256
) -> Callable[[Tree, Batch, Array, int], np.ndarray]:
    """Compile the count of the classes that a network gives for noisy versions of one image.

    Args:
        predict: `(variables, batch) -> logits [B, K]`, such as `task.predict`.
        sigma: standard deviation of the noise, positive.
        batch_size: noisy images that are predicted together.

    Returns:
        The function `(variables, row, key, count) -> int [K]`, for a batch of one row and any number of noisy images.
        Noisy images whose logits are not finite count for no class.

    Raises:
        InputError: a value is outside its range; or when called, the images are not one, or its floats not in 0..1.

    """
    check_numbers(sigma=sigma)
    if not 0 < sigma <= LARGEST:
        raise InputError(f"sigma={sigma}: must be above 0 and at most {LARGEST}, for pixels in 0..1 (64/255, not 64)")
    check_whole("batch_size", batch_size, 1)

    def votes(variables: Tree, row: Batch, key: Array, count: Array) -> Array:
        image = pixels(row)

        def some(i: Array, total: Array) -> Array:
            noise = jax.random.normal(jax.random.fold_in(key, i), (batch_size, *image.shape[1:]))
            logits = two(
                predict(variables, {**_repeated(row, batch_size), "image": (image + sigma * noise).clip(0, 1)})
            )
            here = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=jnp.int32)
            here *= jnp.isfinite(logits).all(-1, keepdims=True)
            return total + (here * (i * batch_size + jnp.arange(batch_size) < count)[:, None]).sum(0)

        classes = jax.eval_shape(lambda: two(predict(variables, row))).shape[-1]
        return jax.lax.fori_loop(0, -(-count // batch_size), some, jnp.zeros(classes, jnp.int32))

    compiled = jax.jit(votes)

    def counted(variables: Tree, row: Batch, key: Array, count: int) -> np.ndarray:
        check_whole("count", count)
        if not 1 <= count < 2**31:
            raise InputError(f"count={count}: must be from 1 to 2147483647")
        if (n := len(row["image"])) != 1:
            raise InputError(f"row: has {n} images, and must have one; count each in turn")
        check_image(row)
        return np.asarray(compiled(variables, dict(row), key, jnp.int32(count)))

    return counted


def certify(
    predict: Predict,
    variables: Tree,
    images: Any,
    sigma: float,
    *,
    n0: int = 100,
    n: int = 10_000,
    alpha: float = 1e-3,
    batch_size: int = 256,
    seed: int = 0,
) -> list[Certificate]:
    """Certify the answers of the smoothed classifier.

    Args:
        predict: `(variables, batch) -> logits [B, K]`, such as `task.predict`.
        variables: its variables.
        images: `[N, H, W, C]`, uint8 or float 0..1.
        sigma: standard deviation of the noise, for pixels in 0..1, positive.
        n0: noisy images that choose the class, at least 1.
        n: further noisy images that bound its share, at least 1; the radius is at most that of `n` votes of `n`.
        alpha: chance that a certificate is wrong, in (0, 1).
        batch_size: noisy images that are predicted together.
        seed: seed of the noise, of which each image gets its own.

    Returns:
        A certificate for each image.

    Raises:
        InputError: a value is outside its range, or the images are not `[N, H, W, C]`, uint8 or float 0..1.

    """
    check_numbers(alpha=alpha)
    for name, value in (("n", n), ("n0", n0), ("seed", seed)):
        check_whole(name, value)
    if not (1 <= n0 < 2**31 and 1 <= n < 2**31):
        raise InputError(f"n0={n0}, n={n}: must be from 1 to 2147483647")
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha}: must be above 0 and below 1")
    images = np.asarray(images)
    if images.ndim != 4:
        raise InputError(f"images of shape {images.shape}: must be [N, H, W, C]; add an axis for one with image[None]")
    check_range(images)
    counts, found = counter(predict, sigma, batch_size=batch_size), []
    for i, image in enumerate(images):
        choose, bound = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
        row = {"image": jnp.asarray(image)[None]}
        label = int(counts(variables, row, choose, n0).argmax())
        found.append(certificate(label, int(counts(variables, row, bound, n)[label]), n, sigma, alpha))
    return found


def certificate(label: int, votes: int, n: int, sigma: float, alpha: float) -> Certificate:
    """Return the certificate of a class that got `votes` of `n` votes; see `certify`."""
    least = least_share(votes, n, alpha)
    if least <= 0.5:
        return Certificate(ABSTAIN, 0.0, least)
    return Certificate(label, sigma * NormalDist().inv_cdf(least), least)


def certified_accuracy(certificates: list[Certificate], labels: Any, radii: Any) -> np.ndarray:
    """Return the share of images that are right, and provably stay so within each radius.

    Args:
        certificates: of N images, N at least 1.
        labels: `[N]`.
        radii: `[R]`, at least 0.

    Returns:
        `[R]`.

    Raises:
        InputError: the numbers of images differ, there are none, or a radius or a label is below 0.

    """
    labels, radii = np.asarray(labels), np.atleast_1d(np.asarray(radii, np.float64))
    if labels.shape != (len(certificates),) or not len(certificates):
        raise InputError(f"{len(certificates)} certificates, labels {labels.shape}: must be as many, at least one")
    if not (labels >= 0).all():
        raise InputError(f"labels: {labels.min()} is below 0; leave out images without a label")
    if not (radii >= 0).all():
        raise InputError(f"radii={radii.tolist()}: must be at least 0")
    right = np.array([c.label for c in certificates]) == labels
    reach = np.array([c.radius for c in certificates])
    return (right[:, None] & (reach[:, None] >= radii)).mean(0)


def _repeated(row: Batch, count: int) -> Batch:
    return {name: jnp.repeat(x, count, 0) for name, x in row.items() if name != "image"}
