"""The Square Attack, which needs no gradients."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.core.collectives import draw
from jaxcnn.core.types import InputError, align, check_numbers
from jaxcnn.methods import attack_parts as parts

Array = jax.Array
BORDERS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 trials; from each on, half the area


def square(eps: float, *, steps: int = 5000, share: float = 0.8) -> parts.Attack:
    """Make the Square Attack: random squares of changed pixels, for the maximum norm.

    Since it only compares logits, it also finds mistakes of networks whose gradients mislead. A row that the network
    gets wrong is left as it is.

    Args:
        eps: largest change of a value, in 0..1 as the images are.
        steps: number of squares that are tried, at least 1. Later ones are smaller.
        share: of the image's area that the first squares cover, in (0, 1].

    Returns:
        The attack.

    Raises:
        InputError: a value is outside its range.

    Reference: Andriushchenko et al., 2019, arXiv:1912.00049.

    """
    parts.check(eps, "linf", steps=steps)
    check_numbers(share=share)
    if not 0 < share <= 1:
        raise InputError(f"share={share}: must be above 0 and at most 1")

    def attack(logits_of: parts.LogitsOf, images: Array, labels: Array, key: Array) -> Array:
        if images.ndim != 4:
            raise InputError(f"images of shape {tuple(images.shape)}: must be [B, H, W, C]")
        b, h, w, c = images.shape
        sides = jnp.array([_side(share, i, steps, h, w) for i in range(steps)])
        rows, columns = jnp.arange(h)[None, :, None, None], jnp.arange(w)[None, None, :, None]

        def margin(x: Array) -> Array:
            return parts.margin(logits_of(x), labels)

        def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, None]:
            x, lead = carry
            number, side = now
            place, sign = jax.random.split(jax.random.fold_in(key, number + 1))
            room = (jnp.array([h, w]) - side + 1)[None]
            top, left = jnp.floor(draw(jax.random.uniform, place, (b, 2)) * room).astype(int).T
            down, across = rows - align(top, images), columns - align(left, images)
            inside = (down >= 0) & (down < side) & (across >= 0) & (across < side)
            new = jnp.where(inside, (images + eps * _signs(sign, (b, 1, 1, c))).clip(0, 1), x)
            ahead = margin(new)
            better = (ahead > lead) & (lead <= 0)
            return (jnp.where(align(better, x), new, x), jnp.where(better, ahead, lead)), None

        stripes = (images + eps * _signs(jax.random.fold_in(key, 0), (b, 1, w, c))).clip(0, 1)
        lead = margin(images)
        wrong = lead > 0
        carry = jnp.where(align(wrong, images), images, stripes), jnp.where(wrong, lead, margin(stripes))
        return lax.scan(step, carry, (jnp.arange(steps), sides))[0][0]

    return parts.checked(attack)


def _side(share: float, number: int, steps: int, height: int, width: int) -> int:
    """Return the side of the square of a trial, in pixels; the paper's schedule, stretched to `steps`."""
    area = share * 0.5 ** sum(number / steps * 10_000 > border for border in BORDERS)
    return min(max(1, round(math.sqrt(area * height * width))), height, width)


def _signs(key: Array, shape: tuple[int, ...]) -> Array:
    return jnp.sign(draw(jax.random.uniform, key, shape) - 0.5)
