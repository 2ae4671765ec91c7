"""Tables of a network's layers: shapes, parameters, multiply-adds, memory and receptive fields, from shapes alone."""

import difflib
import functools
import inspect
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxcnn import ops
from jaxcnn.core.types import InputError
from jaxcnn.explain import receptive_field
from jaxcnn.models import MODELS, VIDEO

MARK = "layer#"  # precedes the number of a call in scopes and names of outputs


class Row(NamedTuple):
    """One call of a layer, or of a block with parameters or products of its own.

    Attributes:
        name: path of the module, as in `variables["params"]`.
        kind: class of the module.
        shape: shape of its output, with the batch.
        parameters: number of its own parameters, without those of inner rows; a layer that is called again counts once.
        flop: its own multiply-adds.
        bytes: size of its output; 0 for a block, because its last layer counts it.
        field: height and width of the receptive field, in pixels; None if the output does not depend on the image.

    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flop: int
    bytes: int
    field: tuple[int, ...] | None


class Summary(NamedTuple):
    """The layers in order of their calls, and the totals; `print` shows a table.

    Attributes:
        rows: one per layer.
        input: shape of the input, with the batch.
        parameters: number of parameters that `model.init` makes.
        flop: multiply-adds of one call.
        bytes: size of all layers' outputs, without intermediate sums and activations, which a compiler may not keep.

    """

    rows: tuple[Row, ...]
    input: tuple[int, ...]
    parameters: int
    flop: int
    bytes: int

    def __str__(self) -> str:
        """Return the table, one line per row, with aligned columns."""
        head = ("layer", "kind", "output", "parameters", "FLOP", "bytes", "field")
        body = [
            (r.name, r.kind, _by(r.shape), f"{r.parameters:,}", short(r.flop), short(r.bytes), _by(r.field))
            for r in self.rows
        ]
        last = ("total", "", _by(self.input), f"{self.parameters:,}", short(self.flop), short(self.bytes), "")
        widths = [max(map(len, column)) for column in zip(head, *body, last, strict=True)]

        def aligned(line):
            cells = zip(line, widths, strict=True)
            return "  ".join(f"{text:{'<' if i < 3 else '>'}{width}}" for i, (text, width) in enumerate(cells))

        rule = "-" * len(aligned(head))
        return "\n".join(line.rstrip() for line in (aligned(head), rule, *map(aligned, body), rule, aligned(last)))


class _Call(NamedTuple):
    """Record of one call of a module during tracing; `bytes` excludes results that are arguments passed through."""

    path: tuple[str, ...]
    kind: str
    parent: int | None
    shape: tuple[int, ...]
    bytes: int


def summary(name_or_model: str | nn.Module, input: Sequence[int]) -> Summary:
    """Describe a model layer by layer, from its shapes alone.

    FLOP follow the convention of torchvision, timm and most papers: a multiply-add counts once, and only convolutions
    and matrix products count, including those of attention (`resnet50` at 224x224 has 4.09 G). They are for the whole
    batch.

    The receptive field is the theoretical one, from the first to the last pixel that can change the output, so in deep
    networks it is larger than the image. Once an array has seen the whole image, through global pooling,
    squeeze-and-excitation, attention or flattening, its field is the size of the image. Pooling and activations have no
    rows of their own; the next row includes their reach.

    Args:
        name_or_model: a name in `MODELS` or `VIDEO`, which takes its default options, or any Linen module that is
            called as `model(x)` or `model(x, train=False)`.
        input: `(height, width, channels)`, for videos and volumes `(depth, height, width, channels)`, or with the batch
            before it.

    Returns:
        Rows and totals; `str()` gives a table.

    Raises:
        InputError: an unknown model, or a shape that it does not take.

    Reference:
        Araujo, Norris, Sim, "Computing receptive fields of convolutional neural networks", Distill, 2019.

    """
    model = _named(name_or_model) if isinstance(name_or_model, str) else name_or_model
    x = jax.ShapeDtypeStruct(_batched(input, len(getattr(model, "default_image", "HWC"))), jnp.float32)
    options: dict[str, Any] = {"train": False} if "train" in inspect.signature(model.__call__).parameters else {}
    calls: list[_Call] = []
    with ops.native_lowering():
        variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, **options), x)
        with nn.intercept_methods(functools.partial(_noted, calls, [])):
            closed = jax.make_jaxpr(lambda variables, x: model.apply(variables, x, **options))(variables, x)
    fields = [None] * len(jax.tree.leaves(variables)) + [receptive_field.image_field(x.shape)]
    found, _ = receptive_field.walk(closed, fields)
    return _table(calls, found, variables.get("params", {}), x.shape)


def _named(name: str) -> nn.Module:
    if name in VIDEO:
        return VIDEO[name]()
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, 3) or sorted(MODELS)
        raise InputError(f"model={name!r}: not one of jaxcnn.models.MODELS; did you mean {' or '.join(close)}?")
    return MODELS[name]()


def _batched(shape: Sequence[int], axes: int) -> tuple[int, ...]:
    """Return a shape with the batch in front; `axes` is what an image of the model has, 4 for volumes."""
    whole = isinstance(shape, Sequence | np.ndarray) and all(isinstance(n, int | np.integer) and n > 0 for n in shape)
    axes = 4 if axes == 4 else 3
    if not whole or len(shape) not in (axes, axes + 1):
        names, such = ("depth, height", "(16, 112, 112, 3)") if axes == 4 else ("height", "(224, 224, 3)")
        raise InputError(
            f"input={shape!r}: must be ({names}, width, channels), or (batch, {names}, width, channels), such as {such}"
        )
    return (1,) * (axes + 1 - len(shape)) + tuple(map(int, shape))


def _noted(calls: list[_Call], unfinished: list[int], call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Run a method of a module; mark what `__call__` computes and returns with the number of the call in the jaxpr."""
    if context.method_name != "__call__":
        return call(*args, **kwargs)
    number, parent = len(calls), unfinished[-1] if unfinished else None
    calls.append(_Call(context.module.path, type(context.module).__name__, parent, (), 0))
    unfinished.append(number)
    with jax.named_scope(f"{MARK}{number}"):
        y = call(*args, **kwargs)
    unfinished.pop()
    arrays = [a for a in jax.tree.leaves(y) if isinstance(a, jax.Array)]
    new = [a for a in arrays if not any(a is b for b in args)]
    shape = arrays[0].shape if arrays else ()
    calls[number] = calls[number]._replace(shape=shape, bytes=sum(a.size * a.dtype.itemsize for a in new))
    return jax.tree.map(lambda a: checkpoint_name(a, f"{MARK}{number}") if isinstance(a, jax.Array) else a, y)


def _table(calls: list[_Call], found: list[receptive_field.Found], params: Any, image: tuple[int, ...]) -> Summary:
    """Assign findings to calls: products by the innermost scope, parameters by the longest path."""
    flop: Counter[int] = Counter()
    fields: dict[int, Any] = {}
    for f in found:
        if f.flop:
            flop[int(re.findall(rf"{MARK}(\d+)", f.scope)[-1])] += f.flop
        if f.primitive == "name" and f.params["name"].startswith(MARK):
            fields.setdefault(int(f.params["name"].removeprefix(MARK)), f.fields[0])
    # other calls were only tried, as by `nn.scan`, and are not in the program
    kept = {n: call for n, call in enumerate(calls) if n in fields or not n}
    first = {call.path: n for n, call in reversed(kept.items())}
    own: Counter[int] = Counter()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = tuple(key.key for key in path)
        own[next(first[keys[:n]] for n in range(len(keys), -1, -1) if keys[:n] in first)] += leaf.size
    blocks = {call.parent for call in kept.values()}

    def size(n):
        return 0 if n in blocks else kept[n].bytes

    def row(n, c):
        field = receptive_field.sizes(fields.get(n), image)
        return Row("/".join(c.path) or ".", c.kind, c.shape, own[n], flop[n], size(n), field)

    # a call that only returns its argument, as dropout does here, gets no row
    rows = tuple(row(n, c) for n, c in kept.items() if own[n] or flop[n] or size(n))
    return Summary(rows, image, sum(own.values()), sum(flop.values()), sum(r.bytes for r in rows))


def short(n: int) -> str:
    """Format a number with three digits and a unit, such as 4.09 G."""
    unit = next(((size, sign) for size, sign in ((10**9, "G"), (10**6, "M"), (10**3, "k")) if n >= size), None)
    return f"{n / unit[0]:.3g} {unit[1]}" if unit else str(n)


def _by(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape)) if shape else "-"
