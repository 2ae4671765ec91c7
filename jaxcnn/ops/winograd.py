"""Winograd convolution F(4x4, 3x3) for stride 1: 2.25 multiplications an output instead of 9 (Lavin and Gray, 2015, arXiv:1509.09308).

Interpolation points 0, +-3/4, +-3/2 with power-of-two scaling: the usual points 0, +-1, +-2 lose up to twice the digits.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxcnn.ops.geometry import Geometry

Array = jax.Array


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
    c_in, c_out = w_shape[-2:]
    tiles = x_shape[0] * -(-x_shape[1] // 4) * -(-x_shape[2] // 4) if len(x_shape) == 4 else 0
    return (
        len(x_shape) == 4 and w_shape[:2] == (3, 3) and g.groups == 1 and max(g.strides + g.dilation) == 1
        and dtype == jnp.float32 and min(c_in, c_out) >= 16 and tiles >= 256
    )  # fmt: skip


def forward(x: Array, w: Array, padding) -> Array:
    """`[B, H, W, C]`, `[3, 3, C, K]`, `(low, high)` pairs to `[B, H', W', K]`."""
    out = [n + low + high - 2 for n, (low, high) in zip(x.shape[1:3], padding, strict=True)]
    product = lax.dot_general(_inputs(x, padding, out), _kernels(w), (((2,), (1,)), ((0,), (0,))))  # [36, tiles, K]
    return _outputs(product, x.shape[0], out)


def kernel_grad(x: Array, dy: Array, padding) -> Array:
    """Gradient to the kernel, `[3, 3, C, K]`, without leaving the Winograd domain before the last step."""
    out = dy.shape[1:3]
    v, m = _inputs(x, padding, out), _output_grads(dy)
    u = lax.dot_general(v, m, (((1,), (1,)), ((0,), (0,))))  # [36, C, K]
    return (jnp.asarray(np.kron(G, G).T, u.dtype) @ u.reshape(36, -1)).reshape(3, 3, *u.shape[1:])


def _kernels(w: Array) -> Array:
    return (jnp.asarray(np.kron(G, G), w.dtype) @ w.reshape(9, -1)).reshape(36, *w.shape[2:])


def _combine(terms: list[Array], weights: np.ndarray) -> Array:
    """Sum of the terms with nonzero weight, the multiplications by one left out."""
    parts = [t if c == 1 else t * np.float32(c) for t, c in zip(terms, weights, strict=True) if c != 0]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _inputs(x: Array, padding, out) -> Array:
    """Transformed 6x6 input tiles, `[36, tiles, C]`."""
    th, tw = -(-out[0] // 4), -(-out[1] // 4)
    (top, _), (left, _) = padding
    x = jnp.pad(x, ((0, 0), (top, 4 * th + 2 - x.shape[1] - top), (left, 4 * tw + 2 - x.shape[2] - left), (0, 0)))
    rows = [x[:, i : i + 4 * th - 3 : 4] for i in range(6)]  # each [B, th, W, C]
    half = [_combine(rows, BT[a]) for a in range(6)]
    tiles = [_combine([h[:, :, j : j + 4 * tw - 3 : 4] for j in range(6)], BT[b]) for h in half for b in range(6)]
    return jnp.stack(tiles).reshape(36, -1, x.shape[-1])


def _outputs(product: Array, batch: int, out) -> Array:
    """Products back to pixels: `[36, tiles, K]` to `[B, H', W', K]`; as one small matrix product, four times the speed of sums."""
    th, tw = -(-out[0] // 4), -(-out[1] // 4)
    y = jnp.asarray(np.kron(AT, AT), product.dtype) @ product.reshape(36, -1)
    y = y.reshape(4, 4, batch, th, tw, -1).transpose(2, 3, 0, 4, 1, 5)
    return y.reshape(batch, 4 * th, 4 * tw, -1)[:, : out[0], : out[1]]


def _output_grads(dy: Array) -> Array:
    """Transpose of `_outputs`: `[B, H', W', K]` to `[36, tiles, K]`."""
    batch, h, w, k = dy.shape
    th, tw = -(-h // 4), -(-w // 4)
    dy = jnp.pad(dy, ((0, 0), (0, 4 * th - h), (0, 4 * tw - w), (0, 0)))
    dy = dy.reshape(batch, th, 4, tw, 4, k).transpose(2, 4, 0, 1, 3, 5).reshape(16, -1)
    return (jnp.asarray(np.kron(AT, AT).T, dy.dtype) @ dy).reshape(36, -1, k)
