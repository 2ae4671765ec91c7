"""Explaining a pixel or a box: the logits that are picked, their gradients and maps, and refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import explain, models
from jaxcnn.data.stored import shown_place, stored_classes

quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
IMAGE = jax.random.uniform(jax.random.key(1), (2, 24, 32, 3))


@pytest.fixture(autouse=True)
def quick():
    """XLA's own operations compile faster."""
    with jc.ops.native_lowering():
        yield


@functools.cache
def unet():
    model = models.unet(3, widths=(4, 8, 8))
    return model, quickly(model.init)(jax.random.key(0), IMAGE)


@functools.cache
def detector(name):
    body = {"name": "resnet20", "options": {"width": 4}}
    options = {
        "fcos": {"width": 8, "depth": 1, "levels": [2], "extra": 0, "score_threshold": 0.0},
        "ssd": {"levels": [2], "extras": [], "scales": [0.2, 0.5], "score_threshold": 0.0},
        "faster_rcnn": {"levels": [1, 2], "width": 8, "hidden": 8, "proposals": 16, "score_threshold": 0.0},
    }[name]
    model = models.NETWORKS[name](2, body, **options)
    return model, quickly(model.init)(jax.random.key(0), IMAGE)


def test_the_logits_of_a_pixel():
    model, variables = unet()
    one = explain.at_pixel(model, (5, 20))
    np.testing.assert_array_equal(one.apply(variables, IMAGE, train=False), model.apply(variables, IMAGE)[:, 5, 20])
    found = quickly(lambda x: explain.input_gradient(one, variables, x, 1))(IMAGE)
    direct = quickly(jax.grad(lambda x: model.apply(variables, x)[:, 5, 20, 1].sum()))(IMAGE)
    np.testing.assert_allclose(found, direct, atol=1e-6)
    assert explain.coarsest(model, variables, IMAGE) == "level2"
    layer = explain.coarsest(one, variables, IMAGE)
    maps = quickly(lambda x: explain.grad_cam(one, variables, x, 1, layer=layer))(IMAGE)
    assert maps.shape == IMAGE.shape[:3] and float(maps.max()) > 0
    relevance = quickly(lambda x: explain.integrated_gradients(one, variables, x, 1, steps=2).relevance)(IMAGE)
    assert relevance.shape == IMAGE.shape and np.isfinite(relevance).all()


@pytest.mark.parametrize("pixel", [(24, 0), (0, 32), (-1, 0), (3,), (1, 2, 3), (1.5, 2.0)])
def test_pixels_that_are_not_there(pixel):
    model, variables = unet()
    with pytest.raises(jc.InputError, match=r"pixel=.*must be 2 integers within \(24, 32\)"):
        explain.at_pixel(model, pixel).apply(variables, IMAGE, train=False)


@pytest.mark.parametrize("name", ["fcos", "ssd", "faster_rcnn"])
def test_the_logits_of_a_box(name):
    model, variables = detector(name)
    outputs, found = quickly(lambda x: (out := model.apply(variables, x), model.detections(out)))(IMAGE)
    at = 3  # any but the first
    boxes, label = found["boxes"][:, at], found["labels"][:, at]
    every, logits = model.scored(outputs)
    assert logits.shape == (*every.shape[:2], 2)
    if every.ndim == 4:
        every = jnp.take_along_axis(every, label[:, None, None, None], 2)[:, :, 0]
    far = jnp.abs(every - boxes[:, None]).max(-1)
    own = far.argmin(1)
    assert float(far.min(1).max()) < 1e-6  # a detection is one of them, to the bit of the codec
    one = explain.at_box(model, boxes, label)
    rows = jnp.arange(2)
    seen = quickly(lambda x: one.apply(variables, x, train=False))(IMAGE)
    np.testing.assert_allclose(seen, logits[rows, own], atol=1e-6)

    def score(image):
        return model.scored(model.apply(variables, image))[1][rows, own, label].sum()

    slope = quickly(jax.grad(score))(IMAGE)
    mine = quickly(lambda x: explain.input_gradient(one, variables, x, label))(IMAGE)
    np.testing.assert_allclose(mine, slope, atol=1e-4 * float(jnp.abs(slope).max()))
    layer = explain.coarsest(one, variables, IMAGE)
    assert layer == explain.coarsest(model, variables, IMAGE) and layer.startswith("stage")
    maps = quickly(lambda x: explain.grad_cam(one, variables, x, label, layer=layer))(IMAGE)
    assert maps.shape == IMAGE.shape[:3] and np.isfinite(maps).all()


def test_what_is_no_box():
    model, _ = detector("fcos")
    with pytest.raises(jc.InputError, match=r"must be \[B, 4\] and \[B\]"):
        explain.at_box(model, np.zeros(4), 1)
    for box, label, line in (([0.1, 0.1, 0.5, 0.5], 2, "label=.*from 0 to 1"), ([0, 0, 1, np.nan], 1, "finite")):
        with pytest.raises(jc.InputError, match=line):
            explain.at_box(model, np.array([box]), np.array([label]))
    with pytest.raises(jc.InputError, match="has no scored"):
        explain.at_box(models.lenet5(), np.zeros((1, 4)), np.zeros(1, int))


@pytest.mark.parametrize("dims", [1, 3])
def test_relevance_of_series_and_volumes_adds_up(dims):
    def model(variables, x, train=False):
        return jnp.stack([(x**2).sum(tuple(range(1, x.ndim))), x.sum(tuple(range(1, x.ndim)))], -1)

    made = jc.models.from_functions(lambda key, x: {"params": {}}, model, num_classes=2)
    x = jnp.linspace(0, 1, 2 * 4**dims).reshape(2, *[4] * dims, 1)
    found = jc.explain.integrated_gradients(made, {"params": {}}, x, target=0, steps=128)
    assert found.error.shape == (2,) and np.abs(np.asarray(found.error)).max() < 1e-2


@pytest.mark.parametrize("resize, ratio", [("squash", 1.0), ("pad", 1.0), ("crop", 0.8)])
def test_a_pixel_of_the_file_is_found_in_the_row(resize, ratio):
    sides, row = (60, 100), (24, 32)
    scores = np.zeros((*row, row[0]))
    scores[np.arange(row[0]), :, np.arange(row[0])] = 1  # the class is the row
    classes = stored_classes(scores, sides, resize, ratio)
    seen = 0
    for place in [(0, 0), (59, 99), (10, 50), (30, 49), (45, 62)]:
        if classes[place] == 255:
            with pytest.raises(jc.InputError, match="is cut away"):
                shown_place(place, sides, row, resize, ratio)
        else:
            at = shown_place(place, sides, row, resize, ratio)
            assert abs(at[0] - int(classes[place])) <= 1 and 0 <= at[1] < 32
            seen += 1
    assert seen >= 3
    with pytest.raises(jc.InputError, match="must be within the 60 x 100 pixels"):
        shown_place((60, 0), sides, row, resize, ratio)
