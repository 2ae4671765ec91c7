"""FCN and DeepLab-v3: dilation instead of strides, shapes on any encoder, the auxiliary head, resizing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.models import ResNet

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def small(bottleneck=False, replaced=(), **options):
    return ResNet(3, (1, 2, 2), bottleneck, width=4, replace_stride_with_dilation=replaced, **options)


def drawn(model, *shape):
    """Variables with statistics and factors of many sizes."""
    made = quick(lambda key: model.init(key, jnp.zeros(shape), train=False))(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: np.abs(x + 0.3 * rng.normal(size=x.shape)).astype(np.float32) + 0.1, made)


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("replaced, factor", [((False, True), 2), ((True, True), 4), ((True, False), 2)])
def test_dilated_features_are_those_of_the_strides_and_more(bottleneck, replaced, factor, rng):
    x = rng.normal(size=(2, 45, 38, 3)).astype(np.float32)
    strided, dilated = small(bottleneck), small(bottleneck, replaced)
    variables = drawn(strided, *x.shape)
    wanted = quick(lambda v, x: strided.apply(v, x, method="features"))(variables, x)["stage3"]
    found = quick(lambda v, x: dilated.apply(v, x, method="features"))(variables, x)["stage3"]
    assert found.shape[1] == {1: 12, 2: 6}[4 // factor]
    np.testing.assert_allclose(found[:, ::factor, ::factor], wanted, rtol=2e-4, atol=1e-5)


def test_one_value_for_each_stage():
    with pytest.raises(jc.InputError, match="must have 2 values, one for each stage after the first"):
        jax.eval_shape(small(replaced=(True, True, True)).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def shapes(model, *shape):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    return variables, jax.eval_shape(lambda v, x: model.apply(v, x, method="features"), variables, image)


@pytest.mark.parametrize("make", [jc.models.fcn, functools.partial(jc.models.deeplab_v3, width=8)])
@pytest.mark.parametrize(
    "encoder, size",
    [(small(replaced=(False, True)), (45, 70)), (jc.models.mobilenet_v2(), (64, 33)), (jc.models.vgg11_bn(), (64, 65))],
)
def test_logits_have_the_size_of_the_image(make, encoder, size):
    model = make(4, encoder=encoder, aux=True)
    variables, features = shapes(model, 2, *size, 3)
    logits, (extra,) = jax.eval_shape(
        lambda v: model.apply(v, jnp.zeros((2, *size, 3)), method="with_auxiliary"), variables
    )
    assert logits.shape == extra.shape == (2, *size, 4) and logits.dtype == jnp.float32
    head = jax.eval_shape(lambda v, f: model.apply(v, f, method="head"), variables, features)
    assert head.shape == logits.shape and "logits" not in variables["params"]["encoder"]


def test_output_strides():
    model = jc.models.deeplabv3_resnet50(2, 16)
    assert shapes(model, 1, 128, 96, 3)[1]["decoder"].shape[1:3] == (8, 6)
    assert model.rates == (6, 12, 18) and jc.models.deeplab_v3(2).rates == (12, 24, 36)
    assert not any(jc.models.fcn_resnet101(2, 32).encoder.replace_stride_with_dilation)
    with pytest.raises(jc.InputError, match="output_stride=4: must be 8, 16 or 32"):
        jc.models.deeplabv3_resnet101(2, 4)


@pytest.mark.parametrize(
    "encoder, shape, message",
    [
        (jc.models.vit_tiny_patch16_224(), (1, 224, 224, 3), "must have features with height and width"),
        (jc.models.resnet18(), (1, 16, 64, 3), "must be at least 17x17 pixels"),
        (jc.models.resnet18(), (1, 64, 64), "must have 4 axes"),
    ],
)
def test_what_does_not_fit_is_one_line(encoder, shape, message):
    with pytest.raises(jc.InputError, match=message) as error:
        shapes(jc.models.fcn(2, encoder=encoder), *shape)
    assert "\n" not in str(error.value)


def test_branches_by_hand(rng):
    """The mean branch sees all pixels, a dilated one those at its distance."""
    model = jc.models.deeplab_v3(2, encoder=small(), width=4, rates=(2,))
    x = rng.normal(size=(1, 24, 32, 3)).astype(np.float32)
    variables = drawn(model, *x.shape)
    _, state = quick(lambda v, x: model.apply(v, x, capture_intermediates=True, mutable=["intermediates"]))(
        variables, x
    )
    seen = {name: part["__call__"][0] for name, part in state["intermediates"]["decoder"].items() if name[0] != "_"}
    last = state["intermediates"]["encoder"]["stages_2_1"]["__call__"][0]

    def conv_norm(name, y, **options):
        p, s = variables["params"]["decoder"][name], variables["batch_stats"]["decoder"][name]["norm"]
        y = jax.lax.conv_general_dilated(
            y, p["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
        )
        y = (np.asarray(y) - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["norm"]["scale"] + p["norm"]["bias"]
        return np.maximum(y, 0)

    far, mean = conv_norm("branch1", last, rhs_dilation=(2, 2)), conv_norm("pooled", last.mean((1, 2), keepdims=True))
    np.testing.assert_allclose(seen["branch1"], far, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(seen["pooled"], mean, rtol=1e-4, atol=1e-4)
    merged = np.concatenate([seen["branch0"], far, np.broadcast_to(mean, far.shape)], -1)
    np.testing.assert_allclose(seen["project"], conv_norm("project", merged), rtol=1e-3, atol=1e-3)


def test_it_learns_with_the_auxiliary_loss_and_keeps_padding_out(rng):
    encoder = ResNet(3, (1, 1), width=8, replace_stride_with_dilation=(True,), cifar_stem=True)
    model = jc.models.fcn(2, encoder=encoder, aux=True, dropout=0.0)
    task = jc.tasks.segmentation(model, auxiliary=0.5, mean=0.3, std=0.3)
    image = rng.integers(0, 100, (8, 12, 16, 1)).astype(np.uint8)
    mask = np.zeros((8, 12, 16), np.int32)
    mask[:, :, 8:] = 1
    image[mask == 1] += 100
    batch = {"image": image, "mask": mask, "row_mask": np.array([1] * 6 + [0] * 2, np.float32)}
    variables = quick(task.init)(jax.random.key(0), batch)
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}

    @quick
    def step(params, state, batch):
        def loss(p):
            mean, (_, changed) = task.loss(p, state, batch, jax.random.key(1))
            return mean.total / mean.weight, changed

        (value, changed), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, grads, changed

    value, grads, changed = step(params, state, batch)
    other = {**batch, "image": np.where(batch["row_mask"][:, None, None, None] > 0, image, 255).astype(np.uint8)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), step(params, state, other)[1], grads
    )
    assert np.abs(grads["extra_0"]["logits"]["kernel"]).max() > 1e-4
    first = value
    for _ in range(30):
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        value, grads, changed = step(params, changed, batch)
    assert value < 0.5 * first
    alone = jc.tasks.segmentation(jc.models.fcn(2, encoder=encoder))
    assert "extra_0" not in jax.eval_shape(alone.init, jax.random.key(0), batch)["params"]


def test_an_auxiliary_loss_needs_an_auxiliary_head():
    model = jc.models.fcn(2, encoder=small(), aux=True)
    for wrong, made in ((0.5, jc.models.unet(2)), (-1, model)):
        with pytest.raises(jc.InputError, match=f"auxiliary={wrong}: must be at least 0"):
            jc.tasks.segmentation(made, auxiliary=wrong)


def by_hand(x, size):
    """Linear interpolation between the centres of pixels along the first axis; the border repeats."""
    n = len(x)
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape(-1, *[1] * (x.ndim - 1))
    return x[low] * (1 - share) + x[np.minimum(low + 1, n - 1)] * share


@pytest.mark.parametrize("before, after", [((5, 4), (13, 32)), ((7, 9), (4, 9)), ((3, 4, 5), (5, 4, 11)), ((6,), (7,))])
def test_resizing_is_linear_between_centres(before, after, rng):
    x = rng.normal(size=(2, *before, 3)).astype(np.float32)
    wanted = x
    for axis, size in enumerate(after, 1):
        wanted = np.moveaxis(by_hand(np.moveaxis(wanted, axis, 0), size), 0, axis)
    np.testing.assert_allclose(jc.ops.resize_linear(x, after), wanted, atol=1e-5)
    with pytest.raises(jc.InputError, match="one for each axis"):
        jc.ops.resize_linear(x, (1, *after))
