"""Use a pair of pure functions, or a Flax NNX module, as a model that is called like a Linen module."""

import dataclasses
import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxcnn.core.types import InputError, named

Array = jax.Array
Tree = Any


@dataclasses.dataclass(frozen=True)
class Functional:
    """A model of two pure functions, with the `init` and `apply` of a Linen module.

    Attributes:
        make: `(key, x) -> variables`, a dict with `"params"` and other collections.
        call: `(variables, x, train, row_mask, key) -> (outputs, variables)`.
        num_classes: number of logits per row.

    """

    make: Callable[[Array, Array], dict[str, Tree]]
    call: Callable[[dict[str, Tree], Array, bool, Array | None, Array | None], tuple[Any, dict[str, Tree]]]
    num_classes: int

    def init(self, rngs: Any, x: Array, train: bool = False) -> dict[str, Tree]:
        """Return randomly initialised variables.

        Args:
            rngs: a key, or a dict with the key `"params"`.
            x: input of the model.
            train: not used.

        """
        del train
        return self.make(rngs["params"] if isinstance(rngs, Mapping) else rngs, x)

    def apply(
        self,
        variables: Mapping[str, Tree],
        x: Array,
        *,
        train: bool = False,
        row_mask: Array | None = None,
        rngs: Any = None,
        mutable: Any = False,
        method: None = None,
    ) -> Any:
        """Return the outputs, and with `mutable` also the changed collections.

        Args:
            variables: dict from collection to values.
            x: input of the model.
            train: whether it runs in training mode.
            row_mask: `[B]`, 0 for padding; None for no padding.
            rngs: dict with the key `"dropout"`, or None.
            mutable: collections to return: False for none, True for all, or names.
            method: must be None.

        Raises:
            InputError: a method is given.

        """
        if method is not None:
            raise InputError(f"method={method!r}: a model of functions has no methods; leave it out")
        key = (rngs or {}).get("dropout")
        outputs, changed = self.call(dict(variables), x, train, row_mask, key)
        if mutable is False:
            return outputs
        wanted = [mutable] if isinstance(mutable, str) else mutable
        return outputs, {name: value for name, value in changed.items() if wanted is True or name in wanted}


def from_functions(
    init: Callable[..., Any], apply: Callable[..., Any], num_classes: int, *, stateful: bool = False
) -> Functional:
    """Use a pair of functions as a model.

    Args:
        init: `(key, x) -> params`, or with `stateful` `-> (params, state)`.
        apply: `(params, x) -> outputs`, or with `stateful` `(params, state, x) -> (outputs, state)`. It also gets the
            keyword arguments that it accepts among `train` (bool), `row_mask` (`[B]`, 1 for rows and 0 for padding, or
            None) and `key` (for dropout; None unless it trains).
        num_classes: number of logits per row.
        stateful: whether the model has a state that training changes, such as running statistics.

    Returns:
        A model with `init` and `apply`, for `jaxcnn.tasks` and `jaxcnn.explain`.

    """
    takes = _keywords(apply)

    def make(key: Array, x: Array) -> dict[str, Tree]:
        made = init(key, x)
        if not stateful:
            return {"params": made}
        if not (isinstance(made, tuple) and len(made) == 2):
            raise InputError(f"init returned {type(made).__name__}: with stateful=True it must return (params, state)")
        return {"params": made[0], "state": made[1]}

    def call(
        variables: dict[str, Tree], x: Array, train: bool, row_mask: Array | None, key: Array | None
    ) -> tuple[Any, dict[str, Tree]]:
        known = {"train": train, "row_mask": row_mask, "key": key}
        given = {name: value for name, value in known.items() if takes is None or name in takes}
        if not stateful:
            return apply(variables["params"], x, **given), {}
        outputs, state = apply(variables["params"], variables["state"], x, **given)
        return outputs, {"state": state}

    return Functional(make, call, num_classes)


def from_nnx(make: Callable[[Any], Any], num_classes: int) -> Functional:
    """Use a Flax NNX module as a model of pure functions.

    The module is split into parameters, running statistics and other variables. It is in training mode when it trains,
    where its random streams restart from the key of the step, and in evaluation mode otherwise. NNX's own BatchNorm
    does not know about padding or devices: under jit it sees all rows of the batch, under pmap those of one device.

    Args:
        make: `rngs -> module`, such as `lambda rngs: Net(10, rngs=rngs)`.
        num_classes: number of logits per row.

    Returns:
        A model with `init` and `apply`; its variables are `{"params": ..., "batch_stats": ..., "other": ...}`, without
        empty collections.

    """
    from flax import nnx

    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat, "random": nnx.RngState, "other": ...}

    def split(module: Any) -> tuple[Any, dict[str, Any]]:
        graph, *states = nnx.split(module, *kinds.values())
        return graph, dict(zip(kinds, states, strict=True))

    def begun(key: Array) -> dict[str, Tree]:
        _, states = split(make(nnx.Rngs(key)))
        found = {name: nnx.to_pure_dict(state) for name, state in states.items() if name != "random"}
        return {name: tree for name, tree in found.items() if jax.tree.leaves(tree)} | {"params": found["params"]}

    def call(
        variables: dict[str, Tree], x: Array, train: bool, row_mask: Array | None, key: Array | None
    ) -> tuple[Any, dict[str, Tree]]:
        del row_mask
        graph, states = split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        for name, state in states.items():
            if name == "random":
                fresh = _reseeded(nnx.to_pure_dict(state), jax.random.key(0) if key is None else key)
                nnx.replace_by_pure_dict(state, fresh)
            elif name in variables:
                nnx.replace_by_pure_dict(state, variables[name])
        module = nnx.merge(graph, *states.values())
        module.train() if train else module.eval()
        outputs = module(x)
        _, after = split(module)
        changed = [name for name in after if name in variables and name != "params"]
        return outputs, {name: nnx.to_pure_dict(after[name]) for name in changed}

    return Functional(lambda key, x: begun(key), call, num_classes)


def _reseeded(random: Tree, key: Array) -> Tree:
    """Give each random stream its own key, and reset its count."""

    def stream(path: str, x: Any) -> Array:
        is_key = jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.fold_in(key, zlib.crc32(path.encode())) if is_key else jax.numpy.zeros(x.shape, x.dtype)

    return jax.tree.unflatten(jax.tree.structure(random), [stream(path, x) for path, x in named(random)])


def _keywords(function: Callable[..., Any]) -> set[str] | None:
    """Return the names of a function's keyword arguments; None if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def accepted(model: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that a model's call accepts: your own Linen module may lack `train` or `row_mask`."""
    call = getattr(type(model), options["method"]) if "method" in options else type(model).__call__
    names = None if isinstance(model, Functional) else _keywords(call)
    return options if names is None else {name: value for name, value in options.items() if name in {*names, "method"}}
