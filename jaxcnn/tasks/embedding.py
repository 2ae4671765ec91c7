"""Embeddings: unit vectors that lie close together for rows of one class, also of classes that training never saw."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import losses, metrics
from jaxcnn.core.precision import promote_float32
from jaxcnn.core.types import Batch, InputError, Mean, Metric, State, Task, row_mask
from jaxcnn.metrics.verification import retrieval
from jaxcnn.models.adapt import accepted
from jaxcnn.tasks import pixels, targets
from jaxcnn.tasks.fields import fields
from jaxcnn.tasks.model import from_model

Array = jax.Array
Loss = Literal["arcface", "triplet", "contrastive", "prototypical"]
LOSSES = ("arcface", "triplet", "contrastive", "prototypical")
VECTORS = "class_vectors"  # of ArcFace, beside the parameters of the model
SHORTEST = 1e-12  # squared length of an output below which it has no direction


class Embedded(NamedTuple):
    """What the losses and the metrics read: vectors `[B, D]`, and their cosines to the class vectors `[B, K]`."""

    embedding: Array
    cosines: Any = None


def embedding(
    model: Any,
    *,
    classes: int,
    loss: Loss = "arcface",
    scale: float = 64.0,
    margin: float | None = None,
    temperature: float = 0.1,
    unit: bool = True,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    size: tuple[int, int] | None = None,
    resize: int | None = None,
    interpolation: str = "bilinear",
    dims: int = 2,
    field: str = "image",
    also: Sequence[str] = (),
) -> Task:
    """Make a task that learns vectors whose cosine says whether two rows are of one class.

    Args:
        model: a Linen module from `[B, H, W, C]` to `[B, D]`, with `num_classes` D, the length of a vector.
        classes: number of different labels, which are 0 to `classes` - 1; with `"prototypical"`, of one episode.
        loss: `"arcface"` (Deng et al., 2018) learns a vector for each class beside the model. `"triplet"` (Hermans et
            al., 2017) and `"contrastive"` (Khosla et al., 2020) compare the rows of a batch, on all devices; a batch
            should have several rows of each class, and with `accumulate(k)` only the rows of a part are compared.
            `"prototypical"` (Snell et al., 2017) takes a batch as an episode, in which `"support"` `[B]` is 1 for the
            support set; see `data.Episodes`.
        scale: factor of ArcFace's cosines.
        margin: of ArcFace, an angle in radians, by default 0.5; of `"triplet"`, a distance, by default the soft margin.
        temperature: of `"contrastive"`.
        unit: whether vectors have length 1. Only `"prototypical"` may use them as they are.
        mean: mean of the training pixels, in 0..1: one number or one per channel. It is saved with the run.
        std: standard deviation of the training pixels, in the same form.
        size: height and width to which images are resized on the device; None keeps theirs.
        resize: length of the shorter side before `size` is cropped from the centre; see `prepare`.
        interpolation: `"bilinear"` or `"bicubic"`.
        dims: number of spatial axes of the images.
        field: the entry of the batch that the model gets, see `classification`.
        also: further entries that the model gets as keyword arguments.

    Returns:
        A `Task` whose `predict` returns vectors `[B, D]`; an output of 0 has no direction and stays 0. Metrics are
        `count`; `same_cosine`, `other_cosine` and their difference `separation`, means over all pairs, for unit
        vectors; for `"arcface"` also `loss` and `accuracy`, of the nearest class vector; for `"prototypical"` `loss`
        and `accuracy` of the queries. The other losses depend on the batch, so only training reports them. It monitors
        the highest `accuracy`, or `separation`. It refuses labels that are no class; in a compiled program these make
        the loss NaN.

    Raises:
        InputError: an unknown loss, or a value outside its range.

    """
    _check(model, classes, loss, margin, unit)
    margin = 0.5 if margin is None and loss == "arcface" else margin
    criterion = _criterion(loss, classes, scale, margin, temperature)
    how = {"mean": mean, "std": std, "size": size, "resize": resize, "interpolation": interpolation, "dims": dims}
    given = fields(field, also, how)
    measured: dict[str, Metric] = {}
    if unit:
        cosines = metrics.pair_cosines(classes)
        measured["pair_cosines"] = lambda outputs, batch: cosines(outputs.embedding, batch)
    best = ("separation", "max")
    if loss == "arcface":
        measured["accuracy"], best = _nearest, ("accuracy", "max")
    elif loss == "prototypical":
        queries = functools.partial(_query_accuracy, classes)
        queries.vectors = True  # pyright: ignore[reportAttributeAccessIssue] (see `check_one_label`)
        measured["accuracy"], best = queries, ("accuracy", "max")
    base = given.strict(from_model(
        _Embedder(model, classes if loss == "arcface" else 0, unit), criterion, measured, given.inputs,
        targets=functools.partial(_canonical, classes), check=functools.partial(_check_rows, classes),
        keywords=given.keywords,
    ))  # fmt: skip

    @functools.wraps(base.predict)
    def predict(variables: Any, batch: Batch) -> Array:
        return base.predict(variables, batch).embedding

    kept = (
        base.metrics if loss in ("arcface", "prototypical") else {k: m for k, m in base.metrics.items() if k != "loss"}
    )
    base.loss.compares = loss != "arcface"  # pyright: ignore[reportFunctionMemberAccess] (see `make_train_step`)
    shares = ("accuracy",) if "accuracy" in kept else ()
    shown = ("loss", best[0]) if "loss" in kept else (best[0],)
    return base._replace(
        predict=predict, outputs=base.predict, metrics=kept, headline=shown, monitor=best, shares=shares
    )


def recall_validation(task: Task, data: Any, *, batch_size: int = 256) -> Callable[[State], dict[str, float]]:
    """Return a `validate` function for `fit` that measures retrieval among validation rows, on the host.

    It suits validation rows of classes that training does not have.

    Args:
        task: an embedding task.
        data: rows as arrays by name, with `"label"` and all that the task reads.
        batch_size: rows per batch.

    Returns:
        Function from the state to `recall_at_1`, the share of rows whose nearest other row is of their class, and
        `map`. The averaged weights are measured where the state has any.

    """
    arrays = {name: np.asarray(x) for name, x in data.items()}
    if "label" not in arrays:
        raise InputError(f"data: has no 'label', only {', '.join(sorted(arrays))}; name the labels 'label'")
    label = arrays["label"].reshape(-1)
    predict = jax.jit(task.predict)

    def validate(state: State) -> dict[str, float]:
        variables = state.extras.get("ema", state.variables)
        found = []
        for start in range(0, len(label), batch_size):
            part = {name: x[start : start + batch_size] for name, x in arrays.items()}
            found.append(np.asarray(predict(variables, part)))
        values = retrieval(np.concatenate(found), label, ranks=(1,))
        return {"recall_at_1": values["recall_at_1"], "map": values["map"]}

    return validate


def _criterion(
    loss: str, classes: int, scale: float, margin: float | None, temperature: float
) -> Callable[[Embedded, Batch], tuple[Array, Array]]:
    def criterion(outputs: Embedded, batch: Batch) -> tuple[Array, Array]:
        vectors, label = outputs.embedding, batch["label"]
        if loss == "arcface":
            values = losses.arcface(outputs.cosines, label, scale, 0.5 if margin is None else margin)
            return values, jnp.ones_like(values)
        if loss == "triplet":
            return losses.batch_hard_triplet(vectors, label, row_mask(batch), margin)
        if loss == "contrastive":
            return losses.supervised_contrastive(vectors, label, row_mask(batch), temperature)
        return losses.prototypical(vectors, label, _support(batch), classes, row_mask(batch))[:2]

    def shape(*sizes: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    # refuses options before anything is trained, and allocates nothing
    rows = {"label": shape(1, dtype=jnp.int32), "support": shape(1)}
    jax.eval_shape(criterion, Embedded(shape(1, 1), shape(1, classes)), rows)
    return criterion


def _nearest(outputs: Embedded, batch: Batch) -> Mean:
    return metrics.accuracy(outputs.cosines, batch)


_nearest.vectors = True  # pyright: ignore[reportFunctionMemberAccess] (see `check_one_label`)


def _query_accuracy(ways: int, outputs: Embedded, batch: Batch) -> Mean:
    """Share of the queries of an episode whose nearest prototype is that of their class."""
    _, weights, logits = losses.prototypical(outputs.embedding, batch["label"], _support(batch), ways, row_mask(batch))
    right = (logits.argmax(-1) == batch["label"]).astype(jnp.float32)
    return metrics.mean(jnp.where(jnp.isnan(logits).any(-1), jnp.nan, right), batch, weights)


def _support(batch: Batch) -> Array:
    if "support" not in batch:
        raise InputError(
            f"the batch has no 'support', only {', '.join(sorted(batch))}; 1 marks the support set, as in data.Episodes"
        )
    return batch["support"]


class _Embedder:
    """A model whose outputs are `Embedded`, with class vectors among its parameters if there are `classes`."""

    def __init__(self, model: Any, classes: int, unit: bool):
        self.model, self.classes, self.unit = model, classes, unit

    def init(self, rngs: Mapping[str, Array], *arguments: Any, **options: Any) -> Any:
        given = {name: x for name, x in options.items() if name not in ("train", "row_mask")}
        known = {name: x for name, x in options.items() if name in ("train", "row_mask")}
        variables = dict(self.model.init(rngs, *arguments, **given, **accepted(self.model, known)))
        if not self.classes:
            return variables
        params = variables["params"]
        if not isinstance(params, Mapping) or VECTORS in params:
            raise InputError(
                f"params of {type(self.model).__name__}: must be a dict without {VECTORS!r}, which the task adds"
            )
        shape = (self.classes, self.model.num_classes)
        drawn = jax.random.normal(jax.random.fold_in(rngs["params"], 1), shape) / np.sqrt(shape[1])
        return variables | {"params": {**params, VECTORS: drawn}}

    def apply(self, variables: Any, *arguments: Any, mutable: Any = False, **options: Any) -> Any:
        given = {name: x for name, x in options.items() if name not in ("train", "row_mask")}
        known = {name: x for name, x in options.items() if name in ("train", "row_mask")}
        vectors = variables["params"][VECTORS] if self.classes else None
        if self.classes:
            params = {name: x for name, x in variables["params"].items() if name != VECTORS}
            variables = {**variables, "params": params}
        found = self.model.apply(variables, *arguments, mutable=mutable, **given, **accepted(self.model, known))
        outputs, changed = (found, None) if mutable is False else found
        outputs = promote_float32(outputs)
        if outputs.ndim != 2:
            raise InputError(
                f"outputs of shape {outputs.shape}: must be [B, D], one vector per row; give a model with num_classes=D"
            )
        outputs = _unit(outputs) if self.unit else outputs
        cosines = None
        if vectors is not None:
            cosines = jnp.matmul(outputs, _unit(promote_float32(vectors)).T, precision=jax.lax.Precision.HIGHEST)
        embedded = Embedded(outputs, cosines)
        return embedded if mutable is False else (embedded, changed)


def _unit(x: Array) -> Array:
    """Divide rows by their lengths."""
    squared = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, SHORTEST))


def _canonical(classes: int, batch: Batch) -> tuple[Batch, Array]:
    _check_form(batch)
    return targets.canonical(targets.Head("softmax", classes), batch)


def _check_form(rows: Batch) -> None:
    """Refuse labels that mix classes."""
    shape = np.shape(rows["label"]) if "label" in rows else (0,)
    if len(shape) > 1 and shape[1:] != (1,):
        raise InputError(
            f"labels of shape {shape}: an embedding needs [N], one class per row; leave out mixup and such"
        )


def _check_rows(classes: int, rows: Batch) -> None:
    pixels.check_image(rows)
    if "label" in rows and pixels.concrete(rows["label"]):
        _check_form(rows)
        targets.check(targets.Head("softmax", classes), rows)


def _check(model: Any, classes: int, loss: str, margin: float | None, unit: bool) -> None:
    if loss not in LOSSES:
        raise InputError(f"loss={loss!r}: must be one of {', '.join(LOSSES)}")
    if classes < 2:
        raise InputError(f"classes={classes}: must be at least 2, the number of different labels")
    if not isinstance(getattr(model, "num_classes", None), int) or model.num_classes < 2:
        found = getattr(model, "num_classes", None)
        raise InputError(f"num_classes={found} of the model: must be the length of a vector, at least 2")
    if margin is not None and loss not in ("arcface", "triplet"):
        raise InputError(f"margin={margin}: loss={loss!r} has none; leave it out")
    if not unit and loss != "prototypical":
        raise InputError(f"unit={unit}: loss={loss!r} compares directions; leave it out")
