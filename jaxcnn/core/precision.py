"""Mixed precision (Micikevicius et al., 2017, arXiv:1710.03740): the dtype of each kind of array, in one place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxcnn.core.types import InputError

SHORT = {"bf16": "bfloat16", "f32": "float32", "f64": "float64"}
COMPUTE = ("float32", "bfloat16", "float64")


class Policy(NamedTuple):
    """The dtypes of a model.

    Attributes:
        params: the dtype of parameters, and so of gradients and of the optimiser's state.
        compute: the dtype of convolutions, matrix products and the arrays between layers.
        wide: the dtype of the statistics of norms, of logits, losses and metrics.

    """

    params: Any
    compute: Any
    wide: Any


def policy(dtype: Any = None, x: Any = jnp.float32) -> Policy:
    """Return the policy of a model that computes in `dtype`; everything but `compute` is float32 or wider.

    bfloat16 has the range of float32, so gradients need no loss scaling. float16 would need it and is refused.

    Args:
        dtype: `"bfloat16"` (or `"bf16"`), `"float32"`, a dtype, or None for the dtype of the input. `"float64"` is for
            checks under `jax_enable_x64`.
        x: the input, or its dtype; used where `dtype` is None.

    Raises:
        InputError: a different dtype; or `dtype` is None and the input has one, such as integers or float16.

    """
    compute = jnp.dtype(_of_input(x) if dtype is None else checked(dtype))
    return Policy(jnp.dtype(jnp.float32), compute, jnp.promote_types(compute, jnp.float32))


def _of_input(x: Any) -> Any:
    found = jax.dtypes.canonicalize_dtype(getattr(x, "dtype", x))
    if found.name not in COMPUTE:
        shape = f" of shape {tuple(x.shape)}" if hasattr(x, "shape") else ""
        raise InputError(
            f"input{shape} is {found}: must be one of {', '.join(COMPUTE)}; use x.astype('float32'), or give dtype="
        )
    return found


def checked(dtype: Any) -> Any:
    """Turn the name of a dtype into the dtype; None stays None, and dtypes that models cannot use are refused."""
    if dtype is None:
        return None
    try:
        found = jnp.dtype(SHORT.get(dtype, dtype) if isinstance(dtype, str) else dtype)
    except TypeError:
        found = None
    if found is None or found.name not in COMPUTE:
        raise InputError(f"dtype={dtype!r}: must be one of {', '.join(COMPUTE)}, or None for that of the input")
    return found


def promote_float32(tree: Any) -> Any:
    """Cast floating-point arrays that are narrower than float32 to float32."""

    def wide(x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(wide, tree)
