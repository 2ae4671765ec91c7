"""Winograd convolution F(4x4, 3x3) for stride 1: 2.25 multiplications an output instead of 9 (Lavin and Gray, 2015, arXiv:1509.09308).

Interpolation points 0, +-3/4, +-3/2 with power-of-two scaling: the usual points 0, +-1, +-2 lose up to twice the digits.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.geometry import CHUNK_BYTES, Geometry, Pads, in_chunks, summed_in_chunks

Array = jax.Array
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


def suits(x_shape: tuple[int, ...], w_shape: tuple[int, ...], dtype, g: Geometry) -> bool:
    """Whether the shape is one for which this form measured faster than the direct convolution."""
    if len(x_shape) != 4 or w_shape[:2] != (3, 3) or g.groups > 1 or max(g.strides + g.dilation) > 1 or dtype != jnp.float32:
        return False
    out = [n + sum(p) - 2 for n, p in zip(x_shape[1:3], g.padding, strict=True)]
    covered = [4 * -(-n // 4) for n in out]
    tiles = x_shape[0] * covered[0] * covered[1] // 16
    places = min(math.prod(out), math.prod(x_shape[1:3]))  # tiles that hang over a border are computed for nothing
    full = places >= 0.5 * covered[0] * covered[1]
    return min(w_shape[2:]) >= 16 and tiles >= 64 and tiles * sum(w_shape[2:]) >= 1 << 13 and full


def forward(x: Array, w: Array, padding: Pads) -> Array:
    """`[B, H, W, C]`, `[3, 3, C, K]`, `(low, high)` pairs to `[B, H', W', K]`."""
    out = tuple(n + low + high - 2 for n, (low, high) in zip(x.shape[1:3], padding, strict=True))
    kernels = _kernels(w)

    def some(x: Array) -> Array:
        return _outputs(_batched(_tiles(x, padding, out, BT), kernels, 2, 1), len(x), out)

    image = _image_bytes(out, w.shape)
    few = len(x) * image <= 4 * CHUNK_BYTES
    large = kernels.nbytes > KERNEL_BYTES  # it would push the tiles out of the cache again and again
    return in_chunks(some, x, len(x) if few or large else -(-CHUNK_BYTES // image))


def _image_bytes(out: tuple[int, int], shape: tuple[int, ...]) -> int:
    """Bytes of one image's tiles on both sides of the product."""
    return 144 * math.prod(-(-n // 4) for n in out) * sum(shape[2:])


def kernel_grad(x: Array, dy: Array, padding: Pads) -> Array:
    """Gradient to the kernel, `[3, 3, C, K]`, without leaving the Winograd domain before the last step."""
    out, c, k = dy.shape[1:3], x.shape[-1], dy.shape[-1]

    def product(x: Array, dy: Array) -> Array:
        return _batched(_tiles(x, padding, out, BT), _tiles(dy, ((0, 0), (0, 0)), out, AT.T), 1, 1)  # [36, C, K]

    least = -(-max(CHUNK_BYTES, 4 * 144 * c * k) // _image_bytes(out, (3, 3, c, k)))  # adding up must stay a small part of a chunk
    total = summed_in_chunks(product, x, dy, least)
    return (jnp.asarray(np.kron(G, G).T, total.dtype) @ total.reshape(36, -1)).reshape(3, 3, c, k)


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


def _tiles(x: Array, padding: Pads, out: tuple[int, int], matrix: np.ndarray) -> Array:
    """Tiles of m x m pixels, 4 apart, transformed by `matrix` [6, m] on both sides: `[36, tiles, C]`.

    Rows as one small matrix product, columns elementwise: as fast as reading and writing, which either alone is not.
    """
    m, (th, tw), (batch, h, w, c) = matrix.shape[1], (-(-n // 4) for n in out), x.shape
    (top, _), (left, _) = padding
    x = jnp.pad(x, ((0, 0), (top, 4 * th + m - 4 - h - top), (left, 4 * tw + m - 4 - w - left), (0, 0)))
    rows = jnp.stack([x[:, i : i + 4 * th - 3 : 4] for i in range(m)]).reshape(m, -1)
    rows = (jnp.asarray(matrix, x.dtype) @ rows).reshape(6, batch, th, -1, c)
    columns = [rows[:, :, :, j : j + 4 * tw - 3 : 4] for j in range(m)]
    return jnp.stack([_combine(columns, matrix[i]) for i in range(6)], 1).reshape(36, -1, c)


def _outputs(product: Array, batch: int, out: tuple[int, int]) -> Array:
    """Products back to pixels: `[36, tiles, K]` to `[B, H', W', K]`; as one small matrix product, four times the speed of sums."""
    th, tw = (-(-n // 4) for n in out)
    y = jnp.asarray(np.kron(AT, AT), product.dtype) @ product.reshape(36, -1)
    y = y.reshape(4, 4, batch, th, tw, -1).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(batch, 4 * th, 4 * tw, -1)[:, : out[0], : out[1]]
