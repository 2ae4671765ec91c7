"""Recurrent layers over `[B, T, C]`: GRU (Cho et al., 2014, arXiv:1406.1078), LSTM (Hochreiter and Schmidhuber, 1997).

The equations are cuDNN's and torch's: the reset gate of the GRU acts behind its product with the state, and both
products have a bias. Gates lie in torch's order, so that transposed weights of torch are these. Unlike torch's, the
recurrent kernels begin orthogonal (Saxe et al., 2013, arXiv:1312.6120), and the forget gates of the LSTM begin open,
with a bias of 1 (Gers et al., 2000).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxcnn.core.precision import policy, promote_float32
from jaxcnn.core.types import InputError, check_whole

Array = jax.Array
State = tuple[Array, ...]  # the first entry is the output of a step
Cell = Callable[[State, Array, Array], State]  # (state, input's part of the gates, state's part) -> state


class Steps(NamedTuple):
    """Which steps of `[B, T, ...]` count.

    Attributes:
        mask: bool `[B, T]`; None where all count.
        sound: bool `[B]`, False for a row whose length is impossible; None where there are no lengths.

    """

    mask: Array | None
    sound: Array | None

    def keep(self, x: Array) -> Array:
        """Return `x` `[B, T, ...]` with zeros in the steps that do not count, whatever they held."""
        return x if self.mask is None else jnp.where(_aligned(self.mask, x), x, 0)

    def mark(self, x: Array) -> Array:
        """Return `x` `[B, ...]` with NaN in rows whose length is impossible."""
        return x if self.sound is None else jnp.where(_aligned(self.sound, x), x, jnp.nan)

    def strided(self, strides: int) -> "Steps":
        """Return which steps count after every second, third, ... of them was kept, the first one included."""
        return self if self.mask is None else self._replace(mask=self.mask[:, ::strides])


def steps_of(x: Array, length: Array | None, row_mask: Array | None, least: int = 0) -> Steps:
    """Find which steps of `x` `[B, T, ...]` count.

    Args:
        x: the array.
        length: int `[B]`, `least` to T: how many steps from the first one count; None for all.
        row_mask: `[B]`, 0 for rows of which no step counts; None for none.
        least: lowest length; those of rows that do not count may be lower.

    Raises:
        InputError: `length` has another shape, is not of integers, or, outside of compiled programs, is out of range.

    """
    rows = None if row_mask is None else (row_mask > 0)[:, None]
    if length is None:
        return Steps(None if rows is None else jnp.broadcast_to(rows, x.shape[:2]), None)
    if length.shape != x.shape[:1] or not jnp.issubdtype(length.dtype, jnp.integer):
        raise InputError(
            f"length of shape {tuple(length.shape)} and dtype {length.dtype}: must be integers {tuple(x.shape[:1])}, "
            "one per row"
        )
    most = x.shape[1]
    short = length < least
    if row_mask is not None:
        short &= (row_mask > 0) | (length < 0)
    if not isinstance(short, Tracer) and isinstance(most, int):
        wrong = np.asarray(length)[np.asarray(short | (length > most))]
        if wrong.size:
            raise InputError(f"length={wrong[0]}: must be {least} to {most}, the number of steps in x")
    inside = jnp.arange(most)[None] < length[:, None]
    return Steps(inside if rows is None else inside & rows, ~short & (length <= most))


def _aligned(mask: Array, x: Array) -> Array:
    return mask.reshape(*mask.shape, *(1,) * (x.ndim - mask.ndim))


def gru_cell(state: State, given: Array, fed_back: Array) -> State:
    """Return the next state of a GRU.

    Args:
        state: `(h,)`, `[B, F]`.
        given: product of the input and its kernel with its bias, `[B, 3F]`: reset, update, candidate.
        fed_back: the same of `h`.

    """
    (h,) = state
    (r, z, n), (r_h, z_h, n_h) = jnp.split(given, 3, -1), jnp.split(fed_back, 3, -1)
    update = nn.sigmoid(z + z_h)
    candidate = jnp.tanh(n + nn.sigmoid(r + r_h) * n_h)
    return ((1 - update) * candidate + update * h,)


def lstm_cell(state: State, given: Array, fed_back: Array) -> State:
    """Return the next state of an LSTM.

    Args:
        state: `(h, c)`, `[B, F]` each: the output and the cell.
        given: product of the input and its kernel with its bias, `[B, 4F]`: input, forget, candidate, output.
        fed_back: the same of `h`.

    """
    _, c = state
    i, f, g, o = jnp.split(given + fed_back, 4, -1)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def scan_cell(
    cell: Cell, given: Array, kernel: Array, bias: Array, mask: Array | None, states: int, reverse: bool
) -> tuple[Array, Array]:
    """Run a cell over the steps, from a state of zeros; a step that does not count keeps the state.

    Args:
        cell: `gru_cell` or `lstm_cell`.
        given: the input's part of the gates, `[B, T, gates * F]`.
        kernel: of the state, `[F, gates * F]`, in the dtype of its product.
        bias: `[gates * F]`.
        mask: bool `[B, T]`, or None.
        states: number of arrays in the state.
        reverse: from the last step to the first.

    Returns:
        The outputs `[B, T, F]`, zero where a step does not count, and the output of the step that came last, `[B, F]`.

    """
    begin = (jnp.zeros((given.shape[0], kernel.shape[0]), given.dtype),) * states
    counts = jnp.ones(given.shape[:2], bool) if mask is None else mask

    def step(state: State, now: tuple[Array, Array]) -> tuple[State, Array]:
        x, counts = now[0], now[1][:, None]
        fed_back = (state[0].astype(kernel.dtype) @ kernel).astype(x.dtype) + bias[None]
        state = tuple(jnp.where(counts, new, old) for new, old in zip(cell(state, x, fed_back), state, strict=True))
        return state, jnp.where(counts, state[0], 0)

    last, outputs = lax.scan(step, begin, (given.swapaxes(0, 1), counts.T), reverse=reverse)
    return outputs.swapaxes(0, 1), last[0]


class _Product(nn.Module):
    """Holds the kernel and the bias of a product, which a loop uses."""

    features: int
    kernel_init: Callable[..., Array]
    bias_init: Callable[..., Array]

    @nn.compact
    def __call__(self, channels: int) -> tuple[Array, Array]:
        kernel = self.param("kernel", self.kernel_init, (channels, self.features), jnp.float32)
        return kernel, self.param("bias", self.bias_init, (self.features,), jnp.float32)


class _Recurrent(nn.Module):
    """What `GRU` and `LSTM` share."""

    features: int
    bidirectional: bool = False
    dtype: Any = None

    cell = staticmethod(gru_cell)
    gates = 3
    states = 1

    @nn.compact
    def __call__(self, x: Array, *, length: Array | None = None, row_mask: Array | None = None) -> tuple[Array, Array]:
        """Run over `[B, T, C]`.

        Args:
            x: floating point; padding may hold anything.
            length: int `[B]`, 0 to T: steps behind it are padding, which keeps the state; None for no padding.
            row_mask: `[B]`, 0 for rows that are padding; None for none.

        Returns:
            The outputs of all steps `[B, T, F]`, zero where a step is padding, and the last output `[B, F]`; with
            `bidirectional`, both directions side by side, `2 * F`, of which the second one ends at the first step. In a
            compiled program, a length out of range makes the row NaN.

        Raises:
            InputError: another shape or dtype, or a length out of range.

        """
        check_whole("features", self.features, 1)
        if x.ndim != 3 or not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(
                f"sequence of shape {tuple(x.shape)} and dtype {x.dtype}: must be floats [batch, time, channels]"
            )
        steps, found = steps_of(x, length, row_mask), []
        for reverse in (False, True)[: 1 + self.bidirectional]:
            found.append(self._direction(steps.keep(x), steps.mask, reverse))
        outputs, last = (jnp.concatenate(both, -1) for both in zip(*found, strict=True))
        return steps.mark(outputs), steps.mark(last)

    def _direction(self, x: Array, mask: Array | None, reverse: bool) -> tuple[Array, Array]:
        dtype, way = policy(self.dtype, x), "backward" if reverse else "forward"
        make, width = functools.partial(_Product, self.gates * self.features), (self.gates, self.features)
        kernel, bias = make(nn.initializers.glorot_uniform(), self._bias, name=f"{way}_input")(x.shape[-1])
        inner, fed_back_bias = make(_orthogonal(width), nn.initializers.zeros, name=f"{way}_state")(self.features)
        given = promote_float32(x.astype(dtype.compute) @ kernel.astype(dtype.compute)) + bias[None, None]
        outputs, last = scan_cell(
            self.cell, given, inner.astype(dtype.compute), fed_back_bias, mask, self.states, reverse
        )
        return outputs.astype(dtype.compute), last.astype(dtype.compute)

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        del key
        return jnp.zeros(shape, dtype)


class GRU(_Recurrent):
    """Gated recurrent units; parameters `forward_input` and `forward_state`, each `kernel` `[., 3F]` and `bias` `[3F]`.

    Attributes:
        features: size F of the state.
        bidirectional: run from both ends, with parameters `backward_input` and `backward_state` as well.
        dtype: as in `precision.policy`, of the products; the state is float32 or wider.

    """


class LSTM(_Recurrent):
    """Long short-term memory; parameters as those of `GRU`, with `4F` columns. Attributes as those of `GRU`."""

    cell = staticmethod(lstm_cell)
    gates = 4
    states = 2

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        del key
        return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)


def _orthogonal(width: tuple[int, int]) -> Callable[..., Array]:
    """Make an initialiser in which the kernel of each gate is orthogonal."""
    gates, features = width
    one = nn.initializers.orthogonal()

    def init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        del shape
        return jnp.concatenate([one(k, (features, features), dtype) for k in jax.random.split(key, gates)], -1)

    return init
