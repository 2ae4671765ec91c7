"""Recipes: optimisers as optax transforms, each of which keeps the learning rate in force readable in its state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from jaxcnn.core.types import InputError, Tree, named
from jaxcnn.optim.decay import Mask, decay_mask, decayed, is_kernel
from jaxcnn.optim.schedules import Rate, check_rate


def sgd(
    learning_rate: Rate,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Stochastic gradient descent with momentum; the decay is added to the gradient, as in PyTorch.

    Args:
        learning_rate: a number, or a schedule.
        momentum: share of the last update that is kept, in [0, 1).
        nesterov: whether the momentum is Nesterov's.
        weight_decay: share of the decayed parameters that is added to the gradient.
        clip: the largest norm of the whole gradient; None for no limit.
        mask: which parameters are decayed, a tree of booleans or a function from the parameters to one.

    Raises:
        InputError: a value outside its range.

    Reference: Sutskever et al., 2013.

    """
    _check_shares(momentum=momentum)
    moving = optax.trace(momentum, nesterov) if momentum else optax.identity()
    return _chain(learning_rate, clip, decayed(weight_decay, mask), moving)


def adam(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Adam; the decay is added to the gradient, and so is scaled like one.

    Args:
        learning_rate: a number, or a schedule.
        b1: decay of the mean of the gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: what is added to the root of the latter.
        weight_decay: share of the decayed parameters that is added to the gradient.
        clip: the largest norm of the whole gradient; None for no limit.
        mask: which parameters are decayed, a tree of booleans or a function from the parameters to one.

    Raises:
        InputError: a value outside its range.

    Reference: Kingma and Ba, 2014, arXiv:1412.6980.

    """
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, decayed(weight_decay, mask), optax.scale_by_adam(b1, b2, eps))


def adamw(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """Adam with decay of the weights themselves.

    Args:
        learning_rate: a number, or a schedule.
        b1: decay of the mean of the gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: what is added to the root of the latter.
        weight_decay: share of the decayed parameters that is added to the scaled gradient.
        clip: the largest norm of the whole gradient; None for no limit.
        mask: which parameters are decayed, a tree of booleans or a function from the parameters to one.

    Raises:
        InputError: a value outside its range.

    Reference: Loshchilov and Hutter, 2017, arXiv:1711.05101.

    """
    _check_shares(b1=b1, b2=b2)
    return _chain(learning_rate, clip, optax.scale_by_adam(b1, b2, eps), decayed(weight_decay, mask))


def lamb(
    learning_rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 1e-4,
    clip: float | None = None,
    mask: Mask = decay_mask,
) -> optax.GradientTransformation:
    """LAMB: Adam with a rate for each layer, for large batches.

    Args:
        learning_rate: a number, or a schedule.
        b1: decay of the mean of the gradients, in [0, 1).
        b2: decay of the mean of their squares, in [0, 1).
        eps: what is added to the root of the latter.
        weight_decay: share of the decayed parameters that is added to the scaled gradient.
        clip: the largest norm of the whole gradient; None for no limit.
        mask: which parameters are decayed, a tree of booleans or a function from the parameters to one.

    Raises:
        InputError: a value outside its range.

    Reference: You et al., 2019, arXiv:1904.00962.

    """
    _check_shares(b1=b1, b2=b2)
    scaled = optax.scale_by_adam(b1, b2, eps)
    return _chain(learning_rate, clip, scaled, decayed(weight_decay, mask), optax.scale_by_trust_ratio())


def muon(
    learning_rate: Rate, rest: optax.GradientTransformation, *, momentum: float = 0.7, steps: int = 3
) -> optax.GradientTransformation:
    """Muon for kernels of convolutions, each with a norm behind it, and another optimiser for all other parameters.

    The momentum of a kernel, as a matrix with one row per filter, is made nearly orthogonal and taken from the kernel.
    The kernel's length is then set to the square root of the number of filters, so the rate is the share by which it
    turns.

    Args:
        learning_rate: for the kernels.
        rest: for parameters that are not kernels of four axes.
        momentum: in Nesterov's form, in [0, 1).
        steps: of the Newton-Schulz iteration.

    Raises:
        InputError: a value outside its range.

    Reference: Jordan, 2024, `airbench94_muon`.

    """
    _check_shares(momentum=momentum)

    def shape(tree: Tree) -> Tree:
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), tree)

    def labels(params: Tree) -> Tree:
        of = ["kernels" if p.ndim == 4 and is_kernel(name, p) else "rest" for name, p in named(params)]
        return jax.tree.unflatten(jax.tree.structure(params), of)

    scaled = optax.contrib.scale_by_muon(ns_steps=steps, beta=momentum, weight_dimension_numbers=shape)
    kernels = optax.chain(_chain(learning_rate, None, scaled), _kept_length())
    return optax.multi_transform({"kernels": kernels, "rest": rest}, labels)


def _kept_length() -> optax.GradientTransformation:
    """Make updates that leave a kernel `[..., K]` with the length `sqrt(K)`."""

    def scaled(p: jax.Array, u: jax.Array) -> jax.Array:
        new = p + u
        return new * (math.sqrt(new.shape[-1]) / jnp.linalg.norm(new.ravel())) - p

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        return jax.tree.map(scaled, params, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


OPTIMIZERS = {"sgd": sgd, "adam": adam, "adamw": adamw, "lamb": lamb}


def learning_rate(opt_state: Tree) -> float:
    """Read the rate of the update that made a state; before any update, the rate of the first one.

    Raises:
        InputError: the state was not made by a recipe of this module or with `optax.inject_hyperparams`.

    """

    def is_array(path: object, value: object) -> bool:
        return hasattr(value, "ndim")

    found = optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate", filtering=is_array)
    if not found:
        raise InputError(
            "no learning rate in the optimiser state: use a recipe of jaxcnn.optim, or optax.inject_hyperparams"
        )
    return float(np.asarray(found[0][1]))


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(f"{name}={share}: must be at least 0 and below 1")


def _chain(rate: Rate, clip: float | None, *transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    """Clip, transform, and scale by a rate that stays readable in the state."""
    if not callable(rate):
        check_rate(rate)
    if clip is not None and not clip > 0:
        raise InputError(f"clip={clip}: must be a positive norm, or None")
    clipped = [] if clip is None else [optax.clip_by_global_norm(clip)]
    scaled = optax.inject_hyperparams(optax.scale_by_learning_rate)(learning_rate=rate)
    return optax.chain(*clipped, *transforms, scaled)
