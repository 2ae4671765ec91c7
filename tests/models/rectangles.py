"""A few coloured rectangles and a body of three convolutions, and what every detector must do with them."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxcnn as jc
from jaxcnn.core.collectives import all_sum
from jaxcnn.layers import ConvNorm, Network
from jaxcnn.models.adapt import accepted
from jaxcnn.ops import boxes as box
from jaxcnn.ops import native_lowering
from tests import small

SIDE, MOST = 32, 3
CPU = {"xla_backend_optimization_level": 0}


class Body(Network):
    """Levels 1, 2 and 3: half, a quarter and an eighth of the image."""

    num_classes: int = 1
    width: int = 16
    smallest = 8

    @nn.compact
    def features(self, x, *, train=False, row_mask=None):
        out = {}
        for i in (1, 2, 3):
            x = ConvNorm(self.width, (3, 3), 2, 1)(x, train=train, row_mask=row_mask)
            out[f"stage{i}"] = x
        return out


@functools.cache
def rectangles(n=8, seed=0):
    """Noise with one to three rectangles, whose colour is their class; padding holds NaN."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.1, (n, SIDE, SIDE, 3)).astype(np.float32)
    boxes, label, mask = np.full((n, MOST, 4), np.nan, np.float32), np.full((n, MOST), 99), np.zeros((n, MOST))
    for i in range(n):
        for j in range(rng.integers(1, MOST + 1)):
            h, w = rng.integers(6, 16, 2)
            y, x, k = rng.integers(0, SIDE - h), rng.integers(0, SIDE - w), rng.integers(2)
            image[i, y : y + h, x : x + w] = np.eye(3)[k]
            boxes[i, j], label[i, j], mask[i, j] = np.array([y, x, y + h, x + w]) / SIDE, k, 1
    true = {"boxes": boxes, "box_label": label.astype(np.int32), "box_mask": mask.astype(np.float32)}
    return jax.tree.map(jnp.asarray, {"image": image, **true, "row_mask": np.ones(n, np.float32)})


def padded(rows, padding, fill=np.nan):
    """Rows of boxes and classes as a batch."""
    most = max(map(len, rows)) + padding
    boxes, label, mask = np.full((len(rows), most, 4), fill, np.float32), np.full((len(rows), most), 99), []
    for i, row in enumerate(map(np.array, rows)):
        boxes[i, : len(row)], label[i, : len(row)] = row[:, :4], row[:, 4]
        mask.append([1.0] * len(row) + [0.0] * (most - len(row)))
    return {"boxes": jnp.asarray(boxes), "box_label": jnp.asarray(label), "box_mask": jnp.asarray(mask)}


def total_loss(model, params, state, batch, key):
    """The sum over the rows that are not padding, and the changed statistics."""
    options = {"train": True, "row_mask": batch["row_mask"], "mutable": ["batch_stats"]}
    given = accepted(model, {name: batch[name] for name in ("boxes", "box_label", "box_mask")})
    out, state = model.apply({"params": params, **state}, batch["image"], rngs={"dropout": key}, **options, **given)
    values = sum(model.losses(out, batch).values())
    return jnp.where(batch["row_mask"] > 0, values, 0).sum(), state


def step(model, variables, batch, key):
    """Loss, gradients and statistics, all added over devices."""
    state = {"batch_stats": variables["batch_stats"]}
    total = functools.partial(total_loss, model)
    (value, changed), grads = jax.value_and_grad(total, has_aux=True)(variables["params"], state, batch, key)
    return *all_sum((value, grads)), changed


@functools.cache
def compiled(model):
    """A step of training on one device, which tests share, and variables to begin with."""
    like = jax.eval_shape(model.init, jax.random.key(0), rectangles()["image"])
    rng = np.random.default_rng(0)

    def drawn(path, x):
        if path[-1].key == "kernel":
            last = path[-2].key.startswith(("logits", "deltas"))
            return rng.normal(0, 0.01 if last else math.sqrt(2 / math.prod(x.shape[:-1])), x.shape).astype(np.float32)
        return np.full(x.shape, path[-1].key in ("scale", "var"), np.float32)

    variables = jax.tree_util.tree_map_with_path(drawn, like)
    with native_lowering():
        run = jax.jit(functools.partial(step, model), compiler_options=CPU)
        return run.lower(variables, rectangles(), jax.random.key(0)).compile(), variables


def trained(model, steps, rate=1e-2):
    """Train on the rectangles; return the variables and the loss of each step."""
    run, variables = compiled(model)
    tx, losses = optax.adam(optax.cosine_decay_schedule(rate, steps)), []
    opt = tx.init(variables["params"])

    @functools.partial(jax.jit, compiler_options=CPU)
    def changed(params, opt, grads):
        updates, opt = tx.update(jax.tree.map(lambda g: g / 8, grads), opt)
        return optax.apply_updates(params, updates), opt

    for i in range(steps):
        value, grads, state = run(variables, rectangles(), jax.random.key(i))
        params, opt = changed(variables["params"], opt, grads)
        variables = {"params": params, **state}
        losses.append(float(value) / 8)
    return variables, losses


def found_by(model, variables):
    with native_lowering():
        predict = jax.jit(lambda v, x: model.detections(model.apply(v, x)), compiler_options=CPU)
        return jax.device_get(predict(variables, rectangles()["image"]))


def check_found(found, least=0.9):
    """Nine of ten rectangles are found, or another share, and little else is."""
    right, wrong, batch = 0, 0, jax.device_get(rectangles())
    for i, mask in enumerate(batch["box_mask"] > 0):
        sure = found["box_mask"][i] & (found["scores"][i] > 0.5)
        overlap = box.iou(found["boxes"][i][sure], batch["boxes"][i][mask])
        same = found["labels"][i][sure][:, None] == batch["box_label"][i][mask][None]
        hits = np.asarray(overlap > 0.5) & same
        right, wrong = right + hits.any(0).sum(), wrong + (~hits.any(1)).sum()
    total = int(batch["box_mask"].sum())
    assert right >= least * total and wrong <= 0.1 * total, (right, wrong, total)


def check_detections(found, golden):
    for i, rows in enumerate(map(np.array, golden)):
        n = len(rows)
        assert 20 <= n <= int(found["box_mask"][i].sum())
        np.testing.assert_allclose(found["boxes"][i, :n], rows[:, :4], atol=2e-6)
        np.testing.assert_allclose(found["scores"][i, :n], rows[:, 4], rtol=1e-5)
        np.testing.assert_array_equal(found["labels"][i, :n], rows[:, 5])


def check_padding_of_detections(found):
    """What lies past the last one is zeros."""
    kept = np.asarray(found["box_mask"])
    assert 0 < kept.sum() < kept.size and (np.diff(np.asarray(found["scores"])) <= 0).all()
    assert all(not np.asarray(found[name])[~kept].any() for name in ("boxes", "scores", "labels"))
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= 1).all()


def checked_padding(model, outputs, learned, batch):
    """Boxes and rows that are padding change nothing, whatever they hold; gradients stay finite without any box.

    Returns the parts of the loss where no image has a box.
    """

    @functools.partial(jax.jit, compiler_options=CPU)
    def run(batch, outputs):
        def total(some):
            parts = model.losses(outputs | some, batch)
            return sum(jnp.where(batch["row_mask"] > 0, x, 0).sum() for x in parts.values()), parts

        (_, parts), grads = jax.value_and_grad(total, has_aux=True)({name: outputs[name] for name in learned})
        return parts, grads

    b, n = batch["box_mask"].shape
    outputs = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), outputs)

    def filled(fill, label):
        wider = {
            "boxes": jnp.full((b + 1, n + 2, 4), fill).at[:b, :n].set(batch["boxes"]),
            "box_label": jnp.full((b + 1, n + 2), label).at[:b, :n].set(batch["box_label"]),
            "box_mask": jnp.zeros((b + 1, n + 2)).at[:b, :n].set(batch["box_mask"]).at[b].set(1),
            "box_crowd": jnp.ones((b + 1, n + 2)).at[:b, :n].set(0),
        }
        return wider | {"row_mask": jnp.ones(b + 1).at[b].set(0)}

    expected = run(filled(0.0, 0), outputs)
    assert all(np.any(x[:b]) for x in jax.tree.leaves(expected))
    for fill, label in ((np.nan, -7), (0.5, 99), (np.inf, 2**30)):
        jax.tree.map(np.testing.assert_array_equal, run(filled(fill, label), outputs), expected)
    empty = filled(np.nan, 99)
    parts, grads = run(empty | {"box_mask": jnp.zeros((b + 1, n + 2))}, outputs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((parts, grads)))
    assert any(np.any(x[:b]) for x in grads.values())  # what is no object is learned from, too
    return jax.tree.map(lambda x: np.asarray(x[:b]), parts)


def check_task(model, parts):
    """Training and prediction by `tasks.detection`, traced alone."""
    task, batch = jc.tasks.detection(model), rectangles()
    variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    state = {"batch_stats": variables["batch_stats"]}
    _, (outputs, _) = jax.eval_shape(task.loss, variables["params"], state, batch, jax.random.key(0))
    named = jax.eval_shape(task.metrics["parts"], outputs, batch)
    assert set(named.totals) == parts
    found = jax.eval_shape(task.predict, variables, batch)
    assert found["boxes"].shape == (8, model.max_detections, 4)
    assert set(jax.eval_shape(task.metrics["parts"], found, batch).totals) == parts


def check_row_padding(model):
    """What a row holds that is padding, NaN in its image as well, changes nothing, and gradients are finite."""
    run, variables = compiled(model)
    results = []
    for fill in (0.5, np.nan):
        batch = {name: x.at[1].set(fill) if name in ("image", "boxes") else x for name, x in rectangles().items()}
        batch["row_mask"] = batch["row_mask"].at[1].set(0)
        results.append(jax.device_get(run(variables, batch, jax.random.key(0))))
    jax.tree.map(np.testing.assert_array_equal, *results)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(results))


def check_devices(model, strategy):
    """A step of training gives the same on one device and on eight."""
    run, variables = compiled(model)
    batch, key = rectangles(), jax.random.key(0)
    one, many = run(variables, batch, key), functools.partial(step, model)
    with native_lowering():
        if strategy == "sharded":
            mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
            batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
            found = jax.jit(many, compiler_options=CPU)(variables, batch, key)
        else:
            rows = jax.tree.map(lambda x: x[:, None], batch)
            found = jax.pmap(many, "data", in_axes=(None, 0, None))(variables, rows, key)
            found = jax.tree.map(lambda x: x[0], found)
    assert small.distance(one, found) < 1e-5
