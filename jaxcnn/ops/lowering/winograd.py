"""CPU form of 3x3 convolution with stride 1, Winograd's F(4x4, 3x3): 2.25 multiplications an output instead of 9.

Lavin and Gray, 2015, arXiv:1509.09308; with the interpolation points 0, +-3/4, +-3/2 and power-of-two scaling: the
usual points 0, +-1, +-2 lose up to twice the digits.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.geometry import (
    CHUNK_BYTES,
    Geometry,
    Pads,
    as_forward,
    col2im,
    in_chunks,
    is_known,
    one_axis,
    out_sizes,
    summed_in_chunks,
    taps,
)
from jaxcnn.ops.lowering.record import Case, Lowering, Shape

Array = jax.Array
NARROW = 16  # channels on both sides with which XLA's own convolution is faster forward
KERNEL_BYTES = 1 << 20  # of a transformed kernel that may be read once a chunk of images


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cook-Toom matrices: output `A^T [4, 6]`, kernel `G [6, 3]`, input `B^T [6, 6]` with y = A^T ((G g) * (B^T d))."""
    points = np.array([0.0, 0.75, -0.75, 1.5, -1.5])
    a = np.zeros((6, 4))
    a[:5] = points[:, None] ** np.arange(4)
    a[5, 3] = 1
    g = np.zeros((6, 3))
    g[:5] = points[:, None] ** np.arange(3)
    g[5, 2] = 1
    scale = np.array([np.prod([p - q for q in points if q != p]) for p in points] + [1.0])
    power = 2.0 ** np.round(np.log2(np.abs(scale)))
    g = g / power[:, None]
    # B^T follows from exactness: for every tap pair, sum_t A[t, i] G[t, k] B[t, j] = (j == i + k)
    system = np.einsum("ti,tk->ikt", a, g).reshape(12, 6)
    target = np.array([[float(j == i + k) for j in range(6)] for i in range(4) for k in range(3)])
    b = np.linalg.lstsq(system, target, rcond=None)[0]
    return a.T, g, np.where(np.abs(b) < 1e-12, 0.0, b)


AT, G, BT = _matrices()


def suits(case: Case) -> bool:
    """Whether the shape is one for which this form measured faster than the direct convolution.

    Of volumes, the last two axes are what matters: the first one may have any window, stride and dilation.
    """
    return case.sized and _fits(case.image, case.kernel, case.dtype, case.geometry)


def suits_forward(case: Case) -> bool:
    """Whether `forward` measured faster, which needs more channels."""
    return suits(case) and max(case.kernel[-2:]) > NARROW


def suits_input_grad(case: Case) -> bool:
    """Whether the input gradient, as a convolution of `dy`, is such a shape."""
    if len(case.image) < 4 or not case.sized:
        return False
    pads = as_forward(case.out, case.kernel, case.geometry, case.image)
    return min(map(min, pads[-2:])) >= 0 and _fits(
        case.out, case.kernel, case.dtype, case.geometry._replace(padding=pads)
    )


def _fits(image: Shape, kernel: Shape, dtype: Any, g: Geometry) -> bool:
    if (
        len(image) < 4
        or kernel[-4:-2] != (3, 3)
        or g.groups > 1
        or max(g.strides[-2:] + g.dilation[-2:]) > 1
        or dtype != jnp.float32
    ):
        return False
    out = [n + sum(p) - 2 for n, p in zip(image[-3:-1], g.padding[-2:], strict=True)]
    covered = [4 * -(-n // 4) for n in out]
    tiles = math.prod(image[:-3]) * math.prod(covered) // 16
    places = min(math.prod(out), math.prod(image[-3:-1]))  # tiles that hang over a border are computed for nothing
    full = places >= 0.5 * math.prod(covered)
    channels = math.prod(kernel[:-4]) * kernel[-2], kernel[-1]
    return min(channels) >= 16 and tiles >= 64 and tiles * sum(channels) >= 1 << 13 and full


def forward(x: Array, w: Array, g: Geometry) -> Array:
    """Convolve images or volumes.

    `[B, H, W, C]` and `[3, 3, C, K]` give `[B, H', W', K]`; `[B, D, H, W, C]` and `[depth, 3, 3, C, K]` give `[B, D',
    H', W', K]`.
    """
    places, k = out_sizes(x.shape[1:-1], w.shape[:-2], g), w.shape[-1]
    w, g, out = w.reshape(-1, *w.shape[-4:]), _deep(g), _three(places)
    kernels = _kernels(jnp.moveaxis(w, 0, 2).reshape(3, 3, -1, k))

    def some(x: Array) -> Array:
        tiles = _along_depth(_tiles(x, g.padding[1:], out[1:], BT), _volumes(x).shape[:2], len(w), g)
        return _outputs(_batched(tiles, kernels, 2, 1), x.shape[0], out).reshape(x.shape[0], *places, k)

    return in_chunks(some, x, _rows(x.shape[0], out, kernels))


def input_grad(dy: Array, w: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Return the gradient to an image or volume: `forward` of `dy` in each plane, then the sum of the depth taps."""
    pads, sizes, c = as_forward(dy.shape, w.shape, g, shape)[-2:], _three(shape[1:-1]), shape[-1]
    w, g = w.reshape(-1, *w.shape[-4:]), _deep(g)
    kernels = _kernels(
        jnp.flip(w, (1, 2)).transpose(1, 2, 4, 0, 3).reshape(3, 3, w.shape[-1], -1)
    )  # [36, K, depth x C]

    def some(dy: Array) -> Array:
        def added(product: Array) -> Array:
            seen = product.reshape(*_volumes(dy).shape[:2], -1, 1, len(w) * c)
            there = sizes[0], *seen.shape[2:4]
            return col2im(lambda n: seen[..., n * c : (n + 1) * c], (len(w), 1, 1), one_axis(g, 0), there).reshape(
                -1, c
            )

        tiles = jax.vmap(added)(_batched(_tiles(dy, pads, sizes[1:], BT), kernels, 2, 1))
        return _outputs(tiles, dy.shape[0], sizes).reshape(dy.shape[0], *shape[1:])

    return in_chunks(some, dy, _rows(dy.shape[0], (_three(dy.shape[1:-1])[0], *sizes[1:]), kernels))


def kernel_grad(x: Array, dy: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """Gradient to a kernel of this shape, without leaving the Winograd domain before the last step."""
    depth, g, out = math.prod(shape[:-4]), _deep(g), _three(dy.shape[1:-1])

    def product(x: Array, dy: Array) -> Array:
        tiles = _along_depth(_tiles(x, g.padding[1:], out[1:], BT), _volumes(x).shape[:2], depth, g)
        return _batched(tiles, _tiles(dy, ((0, 0), (0, 0)), out[1:], AT.T), 1, 1)  # [36, depth x C, K]

    c, k = depth * shape[-2], shape[-1]
    least = -(
        -max(CHUNK_BYTES, 4 * 144 * c * k) // _row_bytes(out, c + k)
    )  # adding up must stay a small part of a chunk
    total = summed_in_chunks(product, x, dy, least)
    kernel = (jnp.asarray(np.kron(G, G).T, total.dtype) @ total.reshape(36, -1)).reshape(3, 3, depth, -1, k)
    return jnp.moveaxis(kernel, 2, 0).reshape(shape)


# An image is a volume of one plane, but only within a chunk: what has an axis of length 1 is copied before it is cut.
def _volumes(x: Array) -> Array:
    return x.reshape(x.shape[0], -1, *x.shape[-3:])


def _deep(g: Geometry) -> Geometry:
    return Geometry(_three(g.strides), ((0, 0), *g.padding)[-3:], _three(g.dilation))


def _three(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *sizes)[-3:]


def _rows(count: Any, out: tuple[int, ...], kernels: Array) -> int:
    """How many images or volumes at a time."""
    row = _row_bytes(out, sum(kernels.shape[1:]))
    few = is_known(count) and count * row <= 4 * CHUNK_BYTES
    large = kernels.nbytes > KERNEL_BYTES  # it would push the tiles out of the cache again and again
    return count if few or large else -(-CHUNK_BYTES // row)


def volume_bytes(out: Shape, kernel: Shape) -> int:
    """Bytes of the tiles of one volume, of a result `[B, D', H', W', K]` and a kernel `[depth, 3, 3, C, K]`."""
    return _row_bytes(out[1:-1], kernel[0] * kernel[-2] + kernel[-1])


def _row_bytes(out: tuple[int, ...], channels: int) -> int:
    """Bytes of one row's tiles on both sides of the product."""
    return 144 * out[0] * math.prod(-(-n // 4) for n in out[1:]) * channels


def _along_depth(tiles: Array, volumes: tuple[int, ...], depth: int, g: Geometry) -> Array:
    """Put what the taps of the first axis see into the channels.

    `[36, B x D x tiles, C]` becomes `[36, B x D' x tiles, depth x C]`.
    """
    c = tiles.shape[-1]

    def seen(tiles: Array) -> Array:
        columns = taps(tiles.reshape(*volumes, -1, 1, c), (depth, 1, 1), one_axis(g, 0))
        return jnp.concatenate([*columns], -1).reshape(-1, depth * c)

    return jax.vmap(seen)(tiles)


def _batched(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((0,), (0,))))


def _kernels(w: Array) -> Array:
    return (jnp.asarray(np.kron(G, G), w.dtype) @ w.reshape(9, -1)).reshape(36, *w.shape[2:])


def _combine(terms: list[Array], weights: np.ndarray) -> Array:
    """Sum of the terms with nonzero weight, the multiplications by one left out."""
    parts = [t if c == 1 else t * np.float32(c) for t, c in zip(terms, weights, strict=True) if c != 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _tiles(x: Array, padding: Pads, out: tuple[int, ...], matrix: np.ndarray) -> Array:
    """Return transformed tiles `[36, tiles, C]` of each plane `[..., H, W, C]`: m x m pixels each, 4 pixels apart.

    `matrix` `[6, m]` is applied on both sides.

    Rows as one small matrix product, columns elementwise: as fast as reading and writing, which either alone is not.
    """
    x = x.reshape(-1, *x.shape[-3:])
    m, (th, tw), (batch, h, w, c) = matrix.shape[1], (-(-n // 4) for n in out), x.shape
    (top, _), (left, _) = padding
    x = jnp.pad(x, ((0, 0), (top, 4 * th + m - 4 - h - top), (left, 4 * tw + m - 4 - w - left), (0, 0)))
    rows = jnp.stack([x[:, i : i + 4 * th - 3 : 4] for i in range(m)]).reshape(m, -1)
    rows = (jnp.asarray(matrix, x.dtype) @ rows).reshape(6, batch, th, -1, c)
    columns = [rows[:, :, :, j : j + 4 * tw - 3 : 4] for j in range(m)]
    return jnp.stack([_combine(columns, matrix[i]) for i in range(6)], 1).reshape(36, -1, c)


def _outputs(product: Array, batch: int, out: tuple[int, ...]) -> Array:
    """Transform products `[36, tiles, K]` back to pixels `[B, *out, K]`.

    One small matrix product takes a quarter of the time of sums.
    """
    depth, (th, tw) = out[0], (-(-n // 4) for n in out[1:])
    y = jnp.asarray(np.kron(AT, AT), product.dtype) @ product.reshape(36, -1)
    y = y.reshape(4, 4, batch * depth, th, tw, -1).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(batch, depth, 4 * th, 4 * tw, -1)[:, :, : out[1], : out[2]]


FORWARD = Lowering(suits_forward, forward=forward)
KERNEL_GRAD = Lowering(suits, kernel_grad=kernel_grad)
INPUT_GRAD = Lowering(suits_input_grad, input_grad=input_grad)
