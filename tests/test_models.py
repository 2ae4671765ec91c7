"""Every model of the zoo: shape, size, gradients, and that nothing depends on how it is called."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jaxcnn import InputError
from jaxcnn.models import MODELS, ResNet
from jaxcnn.tasks import classification

SIZE, CLASSES = 28, 10


def dense(*widths):
    return sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))


def cnn_size(widths):
    """No biases before a norm, which has a scale and a bias; the head sees a mean and a maximum."""
    kernels = 5 * 5 * widths[0] + sum(3 * 3 * a * b for a, b in zip(widths, widths[1:], strict=False))
    return kernels + 2 * sum(widths) + dense(2 * widths[-1], CLASSES)


# the zoo's rules are checked on the smallest of each kind, the large ones made thin
ZOO = {name: MODELS[name] for name in ("cnn", "lenet5", "mlp", "tutorial")} | {
    "mobilenet_v1": functools.partial(MODELS["mobilenet_v1"], width=0.25),
    "resnet18": functools.partial(MODELS["resnet18"], width=8),
    "bottlenecks": functools.partial(ResNet, blocks=(1, 1, 1, 1), bottleneck=True, width=8),
}
GRAY, COLOUR, TINY = (SIZE, SIZE, 1), (224, 224, 3), (32, 32, 3)
PARAMETERS = [  # name, classes, options, image, the published number or one worked out by hand
    ("cnn", 10, {}, GRAY, cnn_size(MODELS["cnn"]().widths)),
    ("lenet5", 10, {}, GRAY, 61_706),
    ("mlp", 10, {}, GRAY, dense(SIZE * SIZE, 256, 128, CLASSES)),
    ("tutorial", 10, {}, GRAY, 693_962),
    ("mobilenet_v1", 1000, {}, COLOUR, 4_231_976),
    ("mobilenet_v1", 1000, {"width": 0.75}, COLOUR, 2_585_560),
    ("mobilenet_v1", 1000, {"width": 0.5}, COLOUR, 1_331_592),
    ("mobilenet_v1", 1000, {"width": 0.25}, COLOUR, 470_072),
    ("mobilenet_v1", 10, {"small_images": True}, TINY, 4_231_976 - dense(1024, 1000) + dense(1024, 10)),
    ("resnet18", 1000, {}, COLOUR, 11_689_512),
    ("resnet18", 10, {"small_images": True}, TINY, 11_173_962),
    ("resnet34", 1000, {}, COLOUR, 21_797_672),
    ("resnet50", 1000, {}, COLOUR, 25_557_032),
    ("resnet101", 1000, {}, COLOUR, 44_549_160),
    ("resnet152", 1000, {}, COLOUR, 60_192_808),
]


def size(tree):
    return sum(p.size for p in jax.tree.leaves(tree))


@functools.cache
def images(channels=1):
    return np.random.default_rng(0).integers(0, 256, (4, SIZE, SIZE, channels), np.uint8)


@functools.cache
def ran(name):
    """Variables and everything a compiled model gives, from one compilation."""
    model = ZOO[name](CLASSES)
    task = classification(model)
    batch = {"image": jnp.asarray(images()), "label": jnp.arange(4)}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile
    def run(batch):
        variables = task.init(jax.random.key(0), batch)
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads = jax.grad(lambda p: task.loss(p, state, batch, jax.random.key(1))[0].total)(params)
        floats = {"image": batch["image"].astype(jnp.float32) / 255}
        features = model.apply(variables, floats["image"], method="features")
        out = {
            "logits": task.predict(variables, batch),
            "from_floats": task.predict(variables, floats),
            "features": features,
            "head": model.apply(variables, features, method="head"),
            "grads": grads,
        }
        return variables, out

    return model, task, *run(batch)


@pytest.mark.parametrize("name", ZOO)
def test_logits_are_finite_and_of_the_right_shape(name):
    _, _, _, out = ran(name)
    chex.assert_shape(out["logits"], (4, CLASSES))
    assert out["logits"].dtype == jnp.float32
    chex.assert_tree_all_finite(out)
    assert np.ptp(out["logits"], 0).min() > 0  # no logit is the same for every image


@pytest.mark.parametrize("name, classes, options, image, number", PARAMETERS)
def test_parameter_count(name, classes, options, image, number):
    model = MODELS[name](classes, **options)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *image)))
    assert size(variables["params"]) == number


@pytest.mark.parametrize("name", ZOO)
def test_every_parameter_gets_a_gradient(name):
    _, _, variables, out = ran(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(out["grads"], variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(out["grads"]):
        assert np.abs(grad).max() > 1e-6, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", ZOO)
def test_features_and_head_are_the_model(name):
    _, _, _, out = ran(name)
    chex.assert_trees_all_close(out["head"], out["logits"], rtol=1e-5, atol=1e-6)
    assert len(out["features"]) >= 1 and all(f.shape[0] == 4 for f in out["features"].values())


@pytest.mark.parametrize("name", ZOO)
def test_bytes_and_floats_give_the_same(name):
    _, _, _, out = ran(name)
    chex.assert_trees_all_close(out["from_floats"], out["logits"], rtol=1e-6, atol=1e-6)


class EagerTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(*ZOO)
    def test_jit_equals_eager_and_twice_is_once(self, name):
        _, task, variables, out = ran(name)
        predict = self.variant(task.predict)
        once, twice = (predict(variables, {"image": jnp.asarray(images())}) for _ in range(2))
        chex.assert_trees_all_equal(once, twice)
        chex.assert_trees_all_close(once, out["logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_options(name):
    model = ZOO[name](3, dropout=0.5, dtype=jnp.bfloat16)
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda _: jnp.zeros(()), variables))  # kept in float32
    logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, x)
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)}
    train = functools.partial(model.apply, train=True, rngs=rngs, mutable=["batch_stats"], real=jnp.ones(2))
    assert jax.eval_shape(train, variables, x)[0].shape == (2, 3)


@pytest.mark.parametrize("name", ZOO)
def test_dropout_acts_in_training_alone(name):
    _, _, variables, out = ran(name)
    model, x = ZOO[name](CLASSES, dropout=0.5), jnp.asarray(images(), jnp.float32) / 255
    train = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0])
    assert (train(jax.random.key(0)) != train(jax.random.key(1))).any()
    chex.assert_trees_all_equal(train(jax.random.key(0)), train(jax.random.key(0)))
    chex.assert_trees_all_close(
        classification(model).predict(variables, {"image": jnp.asarray(images())}), out["logits"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize(
    "image, words",
    [
        (jnp.zeros((SIZE, SIZE, 1)), "image shape"),
        (jnp.zeros((2, SIZE, SIZE, 1), jnp.uint8), "image dtype uint8"),
        (jnp.zeros((2, SIZE, SIZE, 3)), "channels"),
    ],
    ids=["rank", "dtype", "channels"],
)
def test_wrong_images_are_refused(name, image, words):
    model, _, variables, _ = ran(name)
    with pytest.raises(InputError) as caught:
        jax.eval_shape(model.apply, variables, image)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lenet5", "mlp", "tutorial"])
def test_another_image_size_is_refused(name):
    model, _, variables, _ = ran(name)
    with pytest.raises(InputError, match="inputs to a dense layer"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, SIZE + 12, SIZE, 1)))


FROM = {"cnn": (24, {}), "mobilenet_v1": (17, {}), "resnet18": (17, {}), "bottlenecks": (17, {})}  # side of the smallest image
FROM |= {f"{name} small": (5, {"small_images": True}) for name in ("mobilenet_v1", "resnet18", "bottlenecks")}


@pytest.mark.parametrize("name", FROM)
def test_pooled_models_take_any_size_from_the_smallest_on(name):
    smallest, options = FROM[name]
    model = ZOO[name.split()[0]](CLASSES, **options)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    for shape in ((2, smallest + 16, smallest + 9, 1), (1, smallest, smallest, 1)):
        assert jax.eval_shape(model.apply, variables, jnp.zeros(shape)).shape == (shape[0], CLASSES)
    with pytest.raises(InputError, match=f"must be at least {smallest}x{smallest} pixels; enlarge it") as caught:
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 40, smallest - 1, 1)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, small, scales",
    [
        ("resnet18", False, [2, 4, 8, 16, 32]),
        ("bottlenecks", False, [2, 4, 8, 16, 32]),
        ("bottlenecks", True, [1, 1, 2, 4, 8]),
        ("mobilenet_v1", False, [2, 2, 4, 8, 16, 32]),
        ("mobilenet_v1", True, [1, 1, 1, 2, 4, 8]),
    ],
)
def test_resolution_of_each_stage(name, small, scales):
    model, x = ZOO[name](CLASSES, small_images=small), jnp.zeros((1, 96, 64, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    features = jax.eval_shape(functools.partial(model.apply, method="features"), variables, x)
    assert {k: f.shape[1:3] for k, f in features.items()} == {
        k: (96 // s, 64 // s) for k, s in zip(["stem", *(f"stage{i}" for i in range(1, 6))], scales, strict=False)
    }


def test_a_bottleneck_strides_in_its_3x3():
    model, x = ZOO["bottlenecks"](CLASSES, small_images=True), jnp.zeros((1, 16, 16, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    seen = jax.eval_shape(lambda v: model.apply(v, x, capture_intermediates=True)[1]["intermediates"], variables)["stages_1_0"]
    assert [seen[name]["__call__"][0].shape for name in ("conv1", "conv2", "conv3")] == [(1, 16, 16, 16), (1, 8, 8, 16), (1, 8, 8, 64)]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_blocks_the_identity(bottleneck):
    model = ResNet(CLASSES, (2,), bottleneck, small_images=True, width=8, zero_init_residual=True)
    x = jnp.asarray(images(), jnp.float32) / 255
    variables = model.init(jax.random.key(0), x)
    first = variables["params"]["stages_0_0"]
    assert first["conv1"]["norm"]["scale"].all() and not first["conv3" if bottleneck else "conv2"]["norm"]["scale"].any()
    seen = model.apply(variables, x, capture_intermediates=True)[1]["intermediates"]
    before, after = (seen[name]["__call__"][0] for name in (("stages_0_0", "stages_0_1") if bottleneck else ("stem", "stages_0_1")))
    chex.assert_trees_all_equal(before, after)


def residual_by_hand(p, x, strides):
    """The first block of a stage, two convolutions and a projected shortcut, with the statistics of a new network."""
    layout = ("NHWC", "HWIO", "NHWC")
    conv = lambda name, x, s, pad: jax.lax.conv_general_dilated(
        x, p[name]["conv"]["kernel"], (s, s), [(pad, pad)] * 2, dimension_numbers=layout
    ) / np.sqrt(1 + 1e-5)  # fmt: skip
    y = conv("conv2", jnp.maximum(conv("conv1", x, strides, 1), 0), 1, 1)
    return jnp.maximum(y + conv("shortcut", x, strides, 0), 0)


def test_a_residual_block_by_hand():
    model, _, variables, out = ran("resnet18")
    expected = jax.jit(functools.partial(residual_by_hand, strides=2))(variables["params"]["stages_1_0"], out["features"]["stage1"])
    _, seen = jax.jit(lambda: model.apply(variables, jnp.asarray(images(), jnp.float32) / 255, capture_intermediates=True))()
    chex.assert_trees_all_close(seen["intermediates"]["stages_1_0"]["__call__"][0], expected, rtol=1e-4, atol=1e-4)


def test_mobilenet_refuses_no_width():
    with pytest.raises(InputError, match="width=0: must be above 0"):
        MODELS["mobilenet_v1"](width=0).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_deep_variants_run(name):
    model, x = MODELS[name](CLASSES, width=8), jnp.asarray(images(3), jnp.float32) / 255

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        variables = model.init(key, x)
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0], model.apply(variables, x)

    chex.assert_tree_all_finite(run(jax.random.key(0)))


def test_lenet_pads_to_32_pixels():
    model, _, variables, out = ran("lenet5")
    padded = jnp.pad(jnp.asarray(images(), jnp.float32) / 255, ((0, 0), (2, 2), (2, 2), (0, 0)))
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, padded), out["logits"], atol=1e-5)


def test_tables_are_complete():
    assert {name for name, *_ in PARAMETERS} == set(MODELS)
    assert {type(constructor(CLASSES)) for constructor in ZOO.values()} == {type(constructor()) for constructor in MODELS.values()}
