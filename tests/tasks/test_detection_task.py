"""Detection: what boxes mean, padding and crowds, what is refused, training on rectangles on any devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.core.types import compute, named
from tests.models.test_fcos import tiny
from tests.small import distance

SIDE, MOST = 32, 3


class Known(nn.Module):
    """A detector that knows the true boxes in training; its losses are a number of them, and a pixel."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, *, train=False, row_mask=None, boxes=None, box_label=None, box_mask=None, box_crowd=None):
        gain = self.param("gain", nn.initializers.ones, ())
        known = jnp.zeros(len(x)) if boxes is None else boxes.sum((1, 2)) + box_label.sum(1) + 10 * box_crowd.sum(1)
        return {"known": known, "pixel": gain * x[:, 0, 0, 0], "number": jnp.arange(len(x))}

    def losses(self, outputs, batch):
        return {"seen": batch["box_mask"].sum(-1) + outputs["known"], "pixel": outputs["pixel"]}

    def detections(self, outputs):
        b = len(outputs["pixel"])
        box = jnp.tile(jnp.array([[[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]]]), (b, 1, 1))
        scores = jnp.stack([outputs["pixel"], jnp.zeros(b)], -1)
        labels = jnp.zeros((b, 2), jnp.int32)
        return {"boxes": box, "scores": scores, "labels": labels, "box_mask": jnp.arange(2)[None] < jnp.ones((b, 1))}


def batch(**changes):
    """Two images with a box each, then padding."""
    boxes = np.full((2, 2, 4), np.nan, np.float32)
    boxes[:, 0] = [0.0, 0.0, 0.5, 0.5]
    found = {
        "image": np.full((2, 4, 4, 3), 0.5, np.float32), "boxes": boxes, "box_label": np.array([[0, 99], [2, -5]]),
        "box_mask": np.array([[1, 0], [1, 0]]),
    }  # fmt: skip
    return {name: x for name, x in (found | changes).items() if x is not None}


def loss(task, batch, **params):
    variables = {"gain": jnp.ones(())} | params
    return task.loss(variables, {}, batch, jax.random.key(0))


def test_the_loss_is_the_weighted_sum_of_its_parts():
    task = jc.tasks.detection(Known(), weights={"pixel": 4.0}, mean=0.25, std=0.5)
    value, (outputs, _) = loss(task, batch())
    # parts: 1 box, whose numbers add up to 1, of class 0 or 2; the pixel is (0.5 - 0.25) / 0.5
    assert value.compute() == pytest.approx((2 + 4 + 2 * 4 * 0.5) / 2)
    sums = {name: metric(outputs, batch()) for name, metric in task.metrics.items()}
    assert compute(sums) == {"loss": pytest.approx(5.0), "seen": 3.0, "pixel": 0.5, "count": 2}
    crowd = batch(box_crowd=np.array([[1, 1], [0, 0]]))
    assert loss(task, crowd)[0].compute() == pytest.approx(5.0 + 10 / 2)
    assert loss(task, batch(box_mask=np.zeros((2, 2))))[0].compute() == pytest.approx(2.0)
    half = batch(sample_weight=np.array([1.0, 0.0]))
    assert loss(task, half)[0].compute() == pytest.approx(2 + 2)


def test_predictions_are_detections_and_what_they_came_from():
    task = jc.tasks.detection(Known(), size=(6, 6))
    image = batch()["image"] * np.array([1.0, 0.5], np.float32)[:, None, None, None]
    outputs = jax.jit(task.predict)({"params": {"gain": jnp.ones(())}}, {"image": image})
    assert outputs.keys() == {"boxes", "scores", "labels", "box_mask", "raw"}
    assert not outputs["raw"]["known"].any()  # a prediction never reads the truth
    found = jc.tasks.detected(outputs)
    assert found.keys() == {"boxes", "scores", "labels", "box_mask"} and found["labels"].dtype == jnp.int32
    measured = jax.jit(lambda outputs: {name: metric(outputs, batch()) for name, metric in task.metrics.items()})
    values = compute(jax.device_get(measured(outputs)))
    assert values["seen"] == 1
    assert values["ap50"] == pytest.approx(0.5)  # class 0 is found with the highest score, class 2 never
    assert task.monitor == ("ap50", "max") and task.headline == ("loss", "ap50")


BOX = [0.1, 0.2, 0.5, 0.6]


def boxed(*box):
    boxes = np.zeros((2, 2, 4), np.float32)
    boxes[:, 0] = BOX
    boxes[1, 0] = box
    return {"boxes": boxes}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            boxed(0.5, 0.2, 0.1, 0.6),
            r"box 0 of row 1: \(0.5, 0.2, 0.1, 0.6\): must be \(y0, x0, y1, x1\), with y0 < y1",
        ),
        (boxed(0.1, 0.2, 0.1, 0.6), "leave out boxes without an area"),
        (boxed(0.1, np.nan, 0.5, 0.6), r"\(0.1, nan, 0.5, 0.6\): must be finite; a box_mask of 0 marks padding"),
        (
            boxed(10.0, 20.0, 200.0, 300.0),
            r"\(10, 20, 200, 300\): must be shares of the height and width, yxyx in 0..1",
        ),
        (boxed(-0.2, 0.2, 0.5, 0.6), "must be shares"),
        ({"boxes": np.full((2, 2, 4), 7.0, np.float32)}, "box 0 of row 0, and 1 more"),
        ({"box_label": np.array([[1, 0], [3, 0]])}, "'box_label' from 1 to 3: .* must be 0 to 2; subtract 1"),
        ({"box_label": np.array([[-1, 0], [2, 0]])}, "'box_label' from -1 to 2: .* number the classes from 0"),
        ({"box_label": np.zeros((2, 2))}, "'box_label' of dtype float64: must be integers"),
        ({"box_label": np.zeros((2, 3), int)}, r"'box_label' of shape \(2, 3\), .* must be \(2, 2\)"),
        ({"box_label": None}, "the batch has no 'box_label', only box_mask, boxes, image"),
        ({"boxes": np.zeros((2, 4), np.float32)}, r"'boxes' of shape \(2, 4\): must be \[B, N, 4\]"),
        ({"boxes": np.zeros((2, 2, 4), int)}, "'boxes' of dtype int64: must be floats"),
        ({"box_crowd": np.zeros(2)}, r"'box_crowd' of shape \(2,\)"),
        ({"image": np.full((2, 4, 4, 3), 9.0, np.float32)}, "floats must be in 0..1"),
    ],
)
def test_what_is_wrong_is_one_line(changes, message):
    task = jc.tasks.detection(Known())
    for use in (task.check, functools.partial(loss, task)):
        if "box_label" not in changes or changes["box_label"] is not None or use is not task.check:
            with pytest.raises(jc.InputError, match=message) as refused:
                use(batch(**changes))
            assert "\n" not in str(refused.value)
    task.check(batch() | {"row_mask": np.zeros(2), **boxed(0.5, 0.2, 0.1, 0.6)})  # padding may be anything


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: jc.tasks.detection(Known(0)), "num_classes=0: must be at least 1"),
        (lambda: jc.tasks.detection(jc.models.lenet5(10)), r"model=LeNet5: has no losses\(\); use a detector"),
        (lambda: jc.tasks.detection(Known(), weights={"pixel": -1.0}), r"weights\['pixel'\]=-1.0: must be at least 0"),
        (
            lambda: loss(jc.tasks.detection(Known(), weights={"box": 1.0}), batch()),
            "no part of the loss; these are pixel",
        ),
    ],
)
def test_wrong_options_are_one_line(make, message):
    with pytest.raises(jc.InputError, match=message):
        make()


def test_what_a_compiled_program_cannot_refuse_is_nan():
    task = jc.tasks.detection(Known())
    total = jax.jit(lambda batch: loss(task, batch)[0].total)
    assert jnp.isfinite(total(batch())) and jnp.isfinite(total(batch() | boxed(-0.1, 0.2, 0.5, 0.6)))
    assert jnp.isfinite(total(batch(row_mask=np.array([1.0, 0.0])) | boxed(0.5, 0.2, 0.1, 0.6)))
    for wrong in (
        boxed(0.5, 0.2, 0.1, 0.6),
        boxed(10.0, 20.0, 200.0, 300.0),
        {"box_label": np.array([[0, 0], [3, 0]])},
    ):
        assert jnp.isnan(total(batch() | wrong))
    image = batch()["image"].copy()
    image[1] *= 100
    outputs = jax.jit(task.predict)({"params": {"gain": jnp.ones(())}}, {"image": image})
    assert np.isfinite(outputs["scores"][0]).all() and np.isnan(outputs["scores"][1]).all()
    assert outputs["raw"]["number"].dtype == jnp.int32  # only floats can be NaN
    assert outputs["box_mask"][1].all() and np.isnan(outputs["boxes"][1]).all()  # seen by whoever reads them
    broken = jax.jit(task.predict)({"params": {"gain": jnp.array(jnp.nan)}}, {"image": batch()["image"]})
    assert np.isnan(broken["scores"]).all()


def rectangles(n, seed=0):
    """Noise with coloured rectangles, one colour per class, and padded boxes."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (n, SIDE, SIDE, 3))
    boxes, label = np.full((n, MOST, 4), np.nan, np.float32), np.full((n, MOST), -1)
    mask, crowd = np.zeros((n, MOST), np.float32), np.zeros((n, MOST), np.float32)
    for i in range(n):
        for j in range(1 + i % 2):
            k, (h, w) = rng.integers(0, 3), rng.integers(8, 15, 2)
            y, x = rng.integers(0, SIDE - h), rng.integers(0, SIDE // 2 - w + 1) + j * SIDE // 2
            image[i, y : y + h, x : x + w, k] += 180
            boxes[i, j], label[i, j], mask[i, j] = np.array([y, x, y + h, x + w]) / SIDE, k, 1
    arrays = {"image": image.astype(np.uint8), "boxes": boxes, "box_label": label.astype(np.int32), "box_mask": mask}
    return jc.data.Resident(arrays | {"box_crowd": crowd}, ("red", "green", "blue"), seed)


@functools.cache
def learner(norm="group"):
    return jc.tasks.detection(tiny(norm=norm), mean=0.2, std=0.25), jc.optim.adam(5e-3)


def one_step(strategy, devices, data):
    (task, _), tx = learner("batch"), jc.optim.sgd(0.05, momentum=0.9)
    run = jc.compile_step(jc.make_train_step(task, tx), strategy, devices)
    state = run.put(jc.init_state(task, tx, data.example()))
    state, sums = run.call(state, data.put(run.replicate).chunk(16, 0, 1, 1))
    return jax.device_get(state), compute(jax.device_get(sums))


@pytest.mark.parametrize("strategy", ["sharded", "pmap"])
def test_a_step_on_eight_devices_is_that_of_one(strategy):
    data = rectangles(16)
    (one, values), (many, others) = one_step("jit", 1, data), one_step(strategy, 8, data)
    assert values.keys() == {"loss", "count", "classification", "box", "centerness"} and values["count"] == 16
    assert distance(one.params, many.params) < 1e-5 and distance(one.model_state, many.model_state) < 1e-5
    assert values.keys() == others.keys() and others["count"] == 16
    assert all(others[name] == pytest.approx(value, rel=1e-5) for name, value in values.items())


def test_padding_rows_change_no_number():
    task, _ = learner("batch")
    rows = {name: np.asarray(x) for name, x in rectangles(5).arrays.items()}
    rows["image"] = rows["image"] / np.float32(255)
    rows["row_mask"] = np.array([1, 1, 1, 1, 0], np.float32)
    broken = {name: x.copy() for name, x in rows.items()}
    broken["image"][4], broken["boxes"][4], broken["box_label"][4] = np.nan, np.nan, 99
    variables = jax.jit(task.init)(jax.random.key(0), rows)
    params = variables.pop("params")

    @jax.jit
    def run(params, batch):
        def total(params):
            value, (outputs, state) = task.loss(params, variables, batch, jax.random.key(0))
            return value.total, (value, state, {name: metric(outputs, batch) for name, metric in task.metrics.items()})

        return jax.grad(total, has_aux=True)(params)

    (grads, (value, state, sums)), found = run(params, rows), run(params, broken)
    jax.tree.map(np.testing.assert_array_equal, (grads, (value, state, sums)), found)
    idle = {path for path, g in named(grads) if not (np.isfinite(g).all() and np.any(g))}
    # all boxes are for the finest level, and every other parameter learns
    assert idle == {f"regress.norm_0_p{level}.{name}" for level in (3, 4) for name in ("scale", "bias")}
    values = compute(jax.device_get(sums))
    assert value.weight == values["count"] == 4 and np.isfinite(values["loss"])
    parts = (values["classification"], values["box"], values["centerness"])
    assert values["loss"] == pytest.approx(sum(parts), rel=1e-5)


def test_it_learns_rectangles():
    data = rectangles(8)
    task, tx = learner()
    run = jc.compile_step(jc.make_train_step(task, tx), "jit", 1)
    fitted = jc.fit(run, jc.init_state(task, tx, data.example()), data, batch_size=8, steps=120, log=None)
    ev = jc.compile_step(jc.make_eval_step(task), "jit", 1)
    values = jc.evaluate(ev, fitted.state.variables, data, batch_size=8)
    assert values["ap50"] > 0.9 and values["count"] == 8


@pytest.mark.parametrize("strategy, size", [("sharded", 8), ("pmap", 24)])
def test_an_evaluation_on_eight_devices_is_that_of_one(strategy, size):
    data, (task, tx) = rectangles(20), learner()
    variables = jc.init_state(task, tx, data.example()).variables

    def values(strategy, devices, size):
        ev = jc.compile_step(jc.make_eval_step(task), strategy, devices)
        return jc.evaluate(ev, variables, data, batch_size=size)

    one, many = values("jit", 1, 7), values(strategy, 8, size)
    assert one["count"] == many["count"] == 20 and one.keys() == many.keys()
    names = ("loss", "ap", "ap50", "ap75", "classification", "box", "centerness")
    assert all(many[name] == pytest.approx(one[name], abs=1e-5) for name in names)
