"""Pretraining without labels: two random views of each image are brought together, by SimCLR or by SimSiam.

The encoder is any model; its last layer is the first layer of the projection and is dropped afterwards:
`transfer.load_pretrained(variables, encoder(state.variables))` begins a classifier with what was learned.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import augment, losses
from jaxcnn.augment.core import as_float
from jaxcnn.core import collectives
from jaxcnn.core.types import (
    Batch,
    FrozenState,
    InputError,
    Mean,
    Task,
    Tree,
    check_numbers,
    check_whole,
    row_mask,
    rows,
)
from jaxcnn.layers import DenseNorms
from jaxcnn.models.adapt import accepted
from jaxcnn.tasks import pixels
from jaxcnn.tasks.model import from_model, prepare, training_pass

Array = jax.Array
VIEWS = "views"  # entry of a batch, [B, 2, H, W, C]


class Projected(NamedTuple):
    """What the losses read: projections of both views `[B, D]`, and with SimSiam the predictions from them."""

    first: Array
    second: Array
    predictions: Any = None


class ViewCosines(NamedTuple):
    """Sums over rows of the unit projections of one view, of their squares, of the cosines of both views, and rows.

    A projection that is zero has no direction: its square is 0, not 1, and its cosines are 0.
    """

    total: Any
    squares: Any
    same: Any
    count: Any

    def compute(self) -> dict[str, float]:
        """Return `same_cosine` of two views of a row, `other_cosine` of two rows, and their difference."""
        n, total = float(self.count), np.asarray(self.total, np.float64)
        same = float(self.same) / n if n else float("nan")
        other = float(total @ total - float(self.squares)) / (n * (n - 1)) if n > 1 else float("nan")
        return {"same_cosine": same, "other_cosine": other, "separation": same - other}


def standard_views(
    size: int | tuple[int, int], *, smallest: float = 0.2, strength: float = 0.5, blur: int = 0
) -> augment.Transform:
    """Return the random views of SimCLR: a resized crop, a mirror image, changed colours, grey and perhaps blurred.

    Args:
        size: height and width of a view.
        smallest: smallest share of the image's area in a crop, 0..1; 0.08 in the paper, 0.2 in SimSiam.
        strength: of the changes of colour, at least 0; the paper has 1 for ImageNet and 0.5 for CIFAR-10.
        blur: pixels of the kernel that blurs half of the views, odd, a tenth of the side; 0 for none, as for CIFAR-10.

    Returns:
        A transform of `image` `[B, H, W, 1 or 3]`, uint8 0..255 or float 0..1, to float 0..1.

    Raises:
        InputError: a value is out of range.

    """
    check_numbers(strength=strength)
    if not 0 <= strength <= 2.5:
        raise InputError(f"strength={strength}: must be in 0..2.5, or hues turn by more than half the circle")
    jitter = augment.color_jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)
    changes = [
        augment.random_resized_crop(size, scale=(smallest, 1.0)), augment.flip,
        augment.sometimes(jitter, 0.8), augment.grayscale(0.2),
    ]  # fmt: skip
    if blur:
        changes.append(augment.sometimes(augment.gaussian_blur(blur), 0.5))
    return augment.compose(*changes)


def simclr(
    model: Any, view: augment.Transform, *, width: int = 128, temperature: float = 0.5,
    mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0,
) -> Task:  # fmt: skip
    """Make a task that recognises the other view of an image among the views of all images of the batch.

    Args:
        model: the encoder, a model from `[B, H, W, C]` to `[B, K]`. Its `num_classes` K, such as 512, is the width of
            the hidden layer of the projection.
        view: makes a random view, such as `standard_views(32)`; it is applied twice.
        width: of the projections.
        temperature: see `losses.nt_xent`.
        mean: mean of the training pixels, in 0..1: one number or one per channel.
        std: standard deviation of the training pixels, in the same form.

    Returns:
        A task that reads `"image"` and no labels. The loss compares with the whole batch, on all devices; with
        `accumulate(k)`, with one part of it, which must have at least two rows. `predict` returns the encoder's
        outputs `[B, K]`. Metrics are `count`, and of the projections `same_cosine` (two views of a row), `other_cosine`
        (two rows) and their difference `separation`, which it monitors; at an `other_cosine` of 1 all rows have become
        one point. In evaluation the views of a row depend only on its pixels. Only training reports the loss, which
        depends on the batch.

    Raises:
        InputError: a value is out of range; or (when traced) a batch has one row.

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, 2020,
    arXiv:2002.05709. Its program normalises the hidden layer and the projections, and so does this one.

    """
    check_numbers(temperature=temperature)
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature={temperature}: must be positive")

    def criterion(outputs: Projected, batch: Batch) -> tuple[Array, Array]:
        if collectives.row_count(outputs.first.shape[0]) < 2:
            line = "simclr: the batch, or its part under accumulate(k), has one row and no other to contrast it with"
            raise InputError(f"{line}; use at least two")
        return losses.nt_xent(outputs.first, outputs.second, row_mask(batch), temperature)

    projection = DenseNorms((width,), after=True)
    task = _siamese(_Siamese(model, projection, None), view, criterion, mean, std, {"width": width})
    task.loss.compares = True  # pyright: ignore[reportFunctionMemberAccess] (see `make_train_step`)
    return task._replace(metrics={k: m for k, m in task.metrics.items() if k != "loss"})


def simsiam(
    model: Any, view: augment.Transform, *, width: int = 2048, hidden: int = 512,
    mean: float | Sequence[float] = 0.0, std: float | Sequence[float] = 1.0,
) -> Task:  # fmt: skip
    """Make a task that predicts the projection of one view of an image from the other view, without negatives.

    Args:
        model: the encoder, as in `simclr`.
        view: as in `simclr`.
        width: of the projections.
        hidden: width of the hidden layer of the predictor, a quarter of `width` in the paper.
        mean: as in `simclr`.
        std: as in `simclr`.

    Returns:
        A task as from `simclr`, whose loss is a mean over rows from -1 to 1, and is reported in evaluation too.

    Raises:
        InputError: a value is out of range.

    Reference: Chen and He, Exploring Simple Siamese Representation Learning, 2020, arXiv:2011.10566.

    """

    def criterion(outputs: Projected, batch: Batch) -> tuple[Array, Array]:
        del batch
        (p, q), (a, b) = outputs.predictions, outputs[:2]
        values = (losses.negative_cosine(p, b) + losses.negative_cosine(q, a)) / 2
        return values, jnp.ones_like(values)

    siamese = _Siamese(model, DenseNorms((width, width), after=True), DenseNorms((hidden, width), before=False))
    return _siamese(siamese, view, criterion, mean, std, {"width": width, "hidden": hidden})


def encoder(variables: Tree) -> Tree:
    """Return the variables of the encoder, as its model has them, from those of `simclr` or `simsiam`.

    Raises:
        InputError: the variables are of another task.

    """
    if not isinstance(variables, Mapping) or "encoder" not in variables.get("params", {}):
        raise InputError(
            "encoder: the variables are not those of simclr or simsiam; give state.variables of such a run"
        )
    return _part(variables, "encoder")


class _Siamese:
    """Encoder, projection and perhaps a predictor, applied to both views of each row; outputs are `Projected`."""

    def __init__(self, model: Any, projection: DenseNorms, predictor: DenseNorms | None):
        if not isinstance(getattr(model, "num_classes", None), int) or model.num_classes < 2:
            found = getattr(model, "num_classes", None)
            raise InputError(f"num_classes={found} of the model: must be the width of a hidden layer, such as 512")
        self.model = model
        self.parts = {"encoder": model, "projection": projection}
        self.parts |= {} if predictor is None else {"predictor": predictor}

    def init(self, rngs: Any, x: Array, **options: Any) -> Tree:
        """Return variables by collection and part; `x` is one view `[B, H, W, C]`."""
        del options
        found: dict[str, dict[str, Tree]] = {}
        for i, (name, part) in enumerate(self.parts.items()):
            key = jax.random.fold_in(rngs["params"], i)
            own = part.init({"params": key}, x, **accepted(part, {"train": False}))
            for collection, values in own.items():
                found.setdefault(collection, {})[name] = values
            x = jnp.zeros((1, self.model.num_classes if name == "encoder" else self.parts["projection"].widths[-1]))
        return found

    def apply(
        self, variables: Tree, x: Array, *, train: bool = False, row_mask: Array | None = None, rngs: Any = None,
        mutable: Any = False,
    ) -> Any:  # fmt: skip
        """Map `[B, 2, H, W, C]` to `Projected`; the views of a row lie side by side, so that devices share them."""
        count = x.shape[0]
        y, mask = x.reshape(2 * count, *x.shape[2:]), None if row_mask is None else jnp.repeat(row_mask, 2)
        keep = FrozenState if train and not mutable else dict
        outs, changed = [], {name: {} for name in variables if name != "params"}
        for name, part in self.parts.items():
            own = _part(variables, name)
            if train:
                params = own.pop("params")
                y, state = training_pass(part, params, keep(own), rngs["dropout"], y, row_mask=mask)
            else:
                y, state = part.apply(own, y, **accepted(part, {"train": False})), {}
            for collection, values in state.items():
                changed[collection][name] = values
            outs.append(y.reshape(count, 2, -1))
        projected = outs[1]
        found = Projected(projected[:, 0], projected[:, 1], (outs[2][:, 0], outs[2][:, 1]) if outs[2:] else None)
        return (found, changed) if mutable is not False else found


def _part(variables: Tree, name: str) -> Tree:
    return {collection: values[name] for collection, values in variables.items() if name in values}


def _siamese(
    siamese: _Siamese, view: augment.Transform, criterion: Callable[..., Any], mean: Any, std: Any, sizes: Any
) -> Task:
    """Return the task of a siamese model."""
    for name, size in sizes.items():
        check_whole(name, size, 1)

    def prepared(image: Array) -> Array:
        return prepare(image, mean, std)

    def inputs(batch: Batch) -> Array:
        views = batch[VIEWS]
        return prepared(views.reshape(-1, *views.shape[2:])).reshape(views.shape)

    base = from_model(siamese, criterion, {"cosines": _view_cosines}, inputs, check=pixels.check_image)

    def init(key: Array, batch: Batch) -> Tree:
        return siamese.init({"params": key}, prepared(view(jax.random.key(0), _image(batch))["image"]))

    def loss(params: Tree, model_state: Tree, batch: Batch, key: Array) -> tuple[Mean, tuple[Any, Tree]]:
        changing, inner = jax.random.split(key)
        both = [view(jax.random.fold_in(changing, i), _image(batch))["image"] for i in range(2)]
        return base.loss(params, model_state, {**batch, VIEWS: jnp.stack(both, 1)}, inner)

    def outputs(variables: Tree, batch: Batch) -> Projected:
        return base.predict(variables, {**batch, VIEWS: _fixed_views(view, batch)})

    def predict(variables: Tree, batch: Batch) -> Array:
        model = siamese.model
        return model.apply(encoder(variables), prepared(batch["image"]), **accepted(model, {"train": False}))

    made = pixels.strict(base._replace(loss=loss, predict=predict))
    return made._replace(init=init, outputs=outputs, headline=("separation",), monitor=("separation", "max"))


def _image(batch: Batch) -> Batch:
    if "image" not in batch:
        raise InputError(f"the batch has no 'image', only {', '.join(sorted(batch))}; views are made of images")
    return {"image": batch["image"]}


def _fixed_views(view: augment.Transform, batch: Batch) -> Array:
    """Return two views of each row that depend only on its pixels, whatever batch it is in, `[B, 2, H, W, C]`."""
    image = as_float(_image(batch)["image"])
    number = jnp.round(255 * image).astype(jnp.uint32).reshape(rows(batch), -1).sum(1, dtype=jnp.uint32)

    def one(pixels: Array, number: Array) -> Array:
        keys = (jax.random.fold_in(jax.random.key(i), number) for i in range(2))
        return jnp.stack([view(key, {"image": pixels[None]})["image"][0] for key in keys])

    with collectives.over():  # a row by itself
        return jax.vmap(one)(image, number)


def _view_cosines(outputs: Projected, batch: Batch) -> ViewCosines:
    counted = row_mask(batch)
    first, second = (x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24)) for x in outputs[:2])
    first = jnp.where(counted[:, None] > 0, first, 0)
    same = jnp.where(counted > 0, (first * second).sum(-1), 0)
    return ViewCosines(first.sum(0), jnp.square(first).sum(), same.sum(), counted.sum())
