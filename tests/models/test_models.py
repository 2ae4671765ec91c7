"""Every model of the zoo: shape, size, gradients, and the same result however it is called."""

import functools
import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from jaxcnn import InputError
from jaxcnn.losses.classification import cross_entropy
from jaxcnn.models import MODELS, DenseNet, GoogLeNet, Inverted, ResNet, SqueezeNet, resnet, whitening
from jaxcnn.models.mobilenet import Row
from jaxcnn.models.speednet import partly_identity
from jaxcnn.models.unet import UNet
from jaxcnn.ops import native_lowering
from jaxcnn.tasks import classification

SIZE, CLASSES = 28, 10


def dense(*widths):
    return sum(a * b + b for a, b in zip(widths, widths[1:], strict=False))


def cnn_size(widths):
    """No biases before a norm, which has a scale and a bias; the head sees a mean and a maximum."""
    kernels = 5 * 5 * widths[0] + sum(3 * 3 * a * b for a, b in zip(widths, widths[1:], strict=False))
    return kernels + 2 * sum(widths) + dense(2 * widths[-1], CLASSES)


def cbam_size(n, squeezed):
    """Two layers for the channels, a 7x7 kernel over mean and maximum for the places, and its norm."""
    return dense(n, squeezed, n) + 7 * 7 * 2 + 2


def speednet_size(*widths):
    """Each stage has two kernels and two norms; the first layer has nothing to learn."""
    kernels = sum(9 * b * (a + b) for a, b in zip((24, *widths), widths, strict=False))
    return kernels + 4 * sum(widths) + dense(widths[-1], CLASSES)


class Short(GoogLeNet):
    """The first stages of GoogLeNet, with a block of each kind."""

    taps = {(2, 0): "aux1"}
    table = GoogLeNet.table[:2] + ((GoogLeNet.table[2][0],), (GoogLeNet.table[3][0],))


# the zoo's rules are checked on the smallest of each kind, the large ones made thin
TABLE = ((Row(8, 8), Row(24, 8)), (Row(16, 16, 5, 2, 8, nn.hard_swish),))
CIFAR = {"blocks": (1, 1, 1), "cifar_stem": True, "width": 16, "projected": False}
# the image size is fixed at init
FIXED = (
    "cct_2_3x2_32",
    "lenet5",
    "mlp",
    "plain",
    "tutorial",
    "vit_tiny_patch16_224",
)
ZOO = {name: MODELS[name] for name in ("cnn", "lenet5", "mlp", "tutorial")} | {
    "alexnet": functools.partial(MODELS["alexnet"], width=0.1),
    "bottlenecks": functools.partial(ResNet, blocks=(1, 1, 1, 1), bottleneck=True, width=8),
    "cbam_resnet20": functools.partial(ResNet, attention=resnet.cbam, **CIFAR),
    "cct_2_3x2_32": functools.partial(MODELS["cct_2_3x2_32"], width=32),
    "cell": functools.partial(MODELS["cell"], width=8, operations=("conv3", "pool", "conv1", "skip", "zero", "conv3")),
    "convnext_tiny": functools.partial(
        MODELS["convnext_tiny"], blocks=(1, 1, 1, 1), widths=(8, 16, 24, 32), layer_scale=1.0
    ),
    "densenet121": functools.partial(DenseNet, blocks=(1, 2, 1, 1), growth=8, width=16),
    "googlenet": functools.partial(Short, aux=True),
    "mobilenet_v1": functools.partial(MODELS["mobilenet_v1"], width=0.25),
    "inverted": functools.partial(
        Inverted, table=TABLE, ends=(8, 32), hidden=16, activation=nn.hard_swish, gate=nn.hard_sigmoid
    ),
    "plain": functools.partial(MODELS["plain"], depth=4, width=8, pool="average", activation="tanh", batch_norm=True),
    "resnet18": functools.partial(MODELS["resnet18"], width=8),
    "seresnet20": functools.partial(ResNet, attention=resnet.squeeze, **CIFAR),
    "speednet": functools.partial(MODELS["speednet"], widths=(8, 12, 16)),
    "squeezenet1_1": functools.partial(SqueezeNet, first=(16, 3), fires=((8,), (8,), (8,))),
    "vgg11_bn": functools.partial(MODELS["vgg11_bn"], width=0.05),
    "vit_tiny_patch16_224": functools.partial(MODELS["vit_tiny_patch16_224"], width=24, depth=4, patch=7),
}
# where 28x28 pixels are too few
SIDES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "googlenet": 48,
    "vgg11_bn": 32,
}
GRAY, COLOUR, TINY, LARGE = (SIZE, SIZE, 1), (224, 224, 3), (32, 32, 3), (299, 299, 3)
PARAMETERS = [  # name, classes, options, image, the published number or one worked out by hand
    ("alexnet", 1000, {}, COLOUR, 61_100_840),
    (
        "cbam_resnet18",
        1000,
        {},
        COLOUR,
        11_689_512 + cbam_size(64, 8) * 2 + cbam_size(128, 8) * 2 + (cbam_size(256, 16) + cbam_size(512, 32)) * 2,
    ),
    ("cbam_resnet20", 10, {}, TINY, 269_722 + 3 * sum(cbam_size(n, 8) for n in (16, 32, 64))),
    ("cct_2_3x2_32", 10, {}, TINY, 283_722),
    ("cct_7_3x1_32", 10, {}, TINY, 3_760_138),
    # by hand: three 3x3 convolutions and three norms in each cell
    ("cell", 10, {}, TINY, 464 + sum(27 * n**2 + 6 * n for n in (16, 32, 64)) + 4672 + 18_560 + dense(64, CLASSES)),
    ("cell", 10, {"operations": ("conv1",) * 6, "width": 8}, GRAY, 88 + 6 * 1344 + 6 * 56 + 1184 + 4672 + 330),
    ("cnn", 10, {}, GRAY, cnn_size(MODELS["cnn"]().widths)),
    ("convnext_small", 1000, {}, COLOUR, 50_223_688),
    ("convnext_tiny", 1000, {}, COLOUR, 28_589_128),
    ("densenet121", 1000, {}, COLOUR, 7_978_856),
    ("densenet169", 1000, {}, COLOUR, 14_149_480),
    ("efficientnet_b0", 1000, {}, COLOUR, 5_288_548),
    ("efficientnet_b1", 1000, {}, COLOUR, 7_794_184),
    ("efficientnet_b2", 1000, {}, COLOUR, 9_109_994),
    ("efficientnet_b3", 1000, {}, COLOUR, 12_233_232),
    ("googlenet", 1000, {}, COLOUR, 6_624_904),
    ("googlenet", 1000, {"aux": True}, COLOUR, 13_004_888),
    ("inception_v3", 1000, {}, LARGE, 23_834_568),
    ("inception_v3", 1000, {"aux": True}, LARGE, 27_161_264),
    ("lenet5", 10, {}, GRAY, 61_706),
    ("mlp", 10, {}, GRAY, dense(SIZE * SIZE, 256, 128, CLASSES)),
    ("mobilenet_v1", 1000, {}, COLOUR, 4_231_976),
    ("mobilenet_v1", 1000, {"width": 0.75}, COLOUR, 2_585_560),
    ("mobilenet_v1", 1000, {"width": 0.5}, COLOUR, 1_331_592),
    ("mobilenet_v1", 1000, {"width": 0.25}, COLOUR, 470_072),
    ("mobilenet_v1", 10, {"cifar_stem": True}, TINY, 4_231_976 - dense(1024, 1000) + dense(1024, 10)),
    ("mobilenet_v2", 1000, {}, COLOUR, 3_504_872),
    ("mobilenet_v3_large", 1000, {}, COLOUR, 5_483_032),
    ("mobilenet_v3_small", 1000, {}, COLOUR, 2_542_856),
    ("plain", 10, {}, GRAY, 320 + 2 * 9_248 + dense(288, CLASSES)),
    ("plain", 10, {"depth": 5, "batch_norm": True}, GRAY, 288 + 4 * 9_216 + 5 * 64 + dense(288, CLASSES)),
    (
        "plain",
        10,
        {"widths": (32, 64), "kernel_size": 5, "pools": 2, "hidden": 1024},
        GRAY,
        832 + 51_264 + dense(3136, 1024, CLASSES),  # of Madry et al., 2017
    ),
    (
        "plain",
        10,
        {"widths": (16, 32), "kernel_size": 4, "stride": 2, "pools": 0, "hidden": 100},
        GRAY,
        272 + 8_224 + dense(1568, 100, CLASSES),  # of Wong and Kolter, 2017
    ),
    ("resnet101", 1000, {}, COLOUR, 44_549_160),
    ("resnet152", 1000, {}, COLOUR, 60_192_808),
    ("resnet18", 1000, {}, COLOUR, 11_689_512),
    ("resnet18", 10, {"cifar_stem": True}, TINY, 11_173_962),
    ("resnet20", 10, {}, TINY, 269_722),
    ("resnet34", 1000, {}, COLOUR, 21_797_672),
    ("resnet50", 1000, {}, COLOUR, 25_557_032),
    ("resnet56", 10, {}, TINY, 853_018),
    ("resnext50_32x4d", 1000, {}, COLOUR, 25_028_904),
    ("seresnet18", 1000, {}, COLOUR, 11_779_624),
    ("seresnet20", 10, {}, TINY, 269_722 + 3 * sum(dense(n, 8, n) for n in (16, 32, 64))),
    ("seresnet50", 1000, {}, COLOUR, 28_088_024),
    ("speednet", 10, {}, TINY, speednet_size(64, 256, 256)),
    ("speednet", 10, {"widths": (32, 128, 256)}, TINY, speednet_size(32, 128, 256)),
    ("squeezenet1_0", 1000, {}, COLOUR, 1_248_424),
    ("squeezenet1_1", 1000, {}, COLOUR, 1_235_496),
    ("tutorial", 10, {}, GRAY, 693_962),
    ("vgg11", 1000, {}, COLOUR, 132_863_336),
    ("vgg11_bn", 1000, {}, COLOUR, 132_868_840),
    ("vgg13", 1000, {}, COLOUR, 133_047_848),
    ("vgg13_bn", 1000, {}, COLOUR, 133_053_736),
    ("vgg16", 1000, {}, COLOUR, 138_357_544),
    ("vgg16_bn", 1000, {}, COLOUR, 138_365_992),
    ("vgg19", 1000, {}, COLOUR, 143_667_240),
    ("vgg19_bn", 1000, {}, COLOUR, 143_678_248),
    ("vit_small_patch16_224", 1000, {}, COLOUR, 22_050_664),
    ("vit_tiny_patch16_224", 1000, {}, COLOUR, 5_717_416),
    ("wide_resnet50_2", 1000, {}, COLOUR, 68_883_240),
]


each = pytest.mark.parametrize("name", ZOO)
# their families have a different member in this list
FURTHER = (
    "alexnet",
    "bottlenecks",
    "cbam_resnet20",
    "mobilenet_v1",
    "resnet18",
    "vgg11_bn",
)
DROPOUT_INSIDE = ("cct_2_3x2_32", "densenet121", "mlp", "vit_tiny_patch16_224")  # elsewhere only the head has any
each_family = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in FURTHER else ()) for n in ZOO]
)


def size(tree):
    return sum(p.size for p in jax.tree.leaves(tree))


@functools.cache
def images(channels=1, side=SIZE):
    return np.random.default_rng(0).integers(0, 256, (4, side, side, channels), np.uint8)


def its_images(name):
    return images(1, SIDES.get(name, SIZE))


@functools.cache
def ran(name):
    """Variables and everything a compiled model gives, from one compilation."""
    model = ZOO[name](CLASSES)
    task = classification(model)
    batch = {"image": jnp.asarray(its_images(name)), "label": jnp.arange(4)}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # half the time to compile
    def run(batch):
        variables = task.init(jax.random.key(0), batch)
        params, state = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        grads = jax.grad(lambda p: task.loss(p, state, batch, jax.random.key(1))[0].total)(params)
        floats = {"image": batch["image"].astype(jnp.float32) / 255}
        features = model.apply(variables, floats["image"], method="features")
        out = {
            "logits": model.apply(variables, floats["image"]),
            "features": features,
            "head": model.apply(variables, features, method="head"),
            "grads": grads,
        }
        return variables, out

    with native_lowering():  # the CPU forms of convolutions take longer to compile, and have their own tests
        return model, task, *run(batch)


@functools.cache
def shapes(name):
    """Model, and shapes and dtypes of its variables."""
    model = ZOO[name](CLASSES)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(its_images(name).shape))


@each_family
def test_logits_features_gradients_and_dropout(
    name,
):  # one test, because a different process would compile the model again
    _, _, variables, out = ran(name)
    check_logits(name, out)
    check_gradients(out["grads"], variables["params"])
    chex.assert_trees_all_close(out["head"], out["logits"], rtol=1e-5, atol=1e-6)  # features and head are the model
    assert len(out["features"]) >= 1 and all(f.shape[0] == 4 for f in out["features"].values())
    check_dropout(name, variables, out)


def check_logits(name, out):
    chex.assert_shape(out["logits"], (4, CLASSES))
    assert out["logits"].dtype == jnp.float32
    chex.assert_tree_all_finite(out)
    changing = np.ptp(out["logits"], 0) > 0
    assert changing.any() if name == "squeezenet1_1" else changing.all()  # its logits end in ReLU


@pytest.mark.parametrize("name, classes, options, image, number", PARAMETERS)
def test_parameter_count(name, classes, options, image, number):
    model = MODELS[name](classes, **options)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *image)))
    assert size(variables["params"]) == number


def check_gradients(grads, params):
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.abs(grad).max() > 1e-7 or untrained(path), jax.tree_util.keystr(path)


def untrained(path):
    """A bias that the next norm subtracts has no effect, also before a 1x1 convolution (inverted residuals).

    An auxiliary head has an effect only through its own loss.
    """
    path = jax.tree_util.keystr(path, simple=True, separator=".")
    return path.endswith((".conv.bias", ".project.norm.bias")) or path.startswith("extra_")


def test_bytes_and_floats_give_the_same():
    _, task, variables, out = ran("cnn")
    predict = jax.jit(task.predict)
    for image in (jnp.asarray(images()), jnp.asarray(images(), jnp.float32) / 255):
        chex.assert_trees_all_close(predict(variables, {"image": image}), out["logits"], rtol=1e-5, atol=1e-5)


class EagerTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters("lenet5", "mlp", "tutorial")  # eagerly, the others take long
    def test_jit_equals_eager_and_twice_is_once(self, name):
        _, task, variables, out = ran(name)
        predict = self.variant(task.predict)
        once, twice = (predict(variables, {"image": jnp.asarray(its_images(name))}) for _ in range(2))
        chex.assert_trees_all_equal(once, twice)
        chex.assert_trees_all_close(once, out["logits"], rtol=1e-4, atol=1e-5)


@each
def test_options(name):
    model = ZOO[name](3, dropout=0.5, dtype=jnp.bfloat16)
    x = jnp.zeros((2, *[max(SIDES.get(name, 32), 32)] * 2, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    chex.assert_trees_all_equal_dtypes(variables, jax.tree.map(lambda _: jnp.zeros(()), variables))  # kept in float32
    logits = jax.eval_shape(functools.partial(model.apply, train=False), variables, x)
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)
    rngs = {"dropout": jax.random.key(0)}
    train = functools.partial(model.apply, train=True, rngs=rngs, mutable=["batch_stats"], row_mask=jnp.ones(2))
    assert jax.eval_shape(train, variables, x)[0].shape == (2, 3)


def check_dropout(name, variables, out):
    """It acts in training alone."""
    model = ZOO[name](CLASSES, dropout=0.5)
    if name in DROPOUT_INSIDE:
        method, given = "__call__", its_images(name) / np.float32(255)
    else:
        method, given = "head", out["features"]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(key):
        trained, _ = model.apply(
            variables, given, train=True, rngs={"dropout": key}, mutable=["batch_stats"], method=method
        )
        return trained, model.apply(variables, given, train=False, method=method)

    (first, logits), (second, _), (again, _) = (run(jax.random.key(seed)) for seed in (0, 1, 0))
    assert (first != second).any()
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_close(logits, out["logits"], rtol=1e-4, atol=1e-5)


@each
@pytest.mark.parametrize(
    "image, words",
    [
        (jnp.zeros((64, 64, 1)), "image shape"),
        (jnp.zeros((2, 64, 64, 1), jnp.uint8), "image dtype uint8"),
        (jnp.zeros((2, 64, 64, 3)), "channels"),
    ],
    ids=["rank", "dtype", "channels"],
)
def test_wrong_images_are_refused(name, image, words):
    model, variables = shapes(name)
    image = image if name not in FIXED or "channels" not in words else jnp.zeros((2, SIZE, SIZE, 3))
    with pytest.raises(InputError) as caught:
        jax.eval_shape(model.apply, variables, image)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FIXED)
def test_another_image_size_is_refused(name):
    model, variables = shapes(name)
    with pytest.raises(InputError, match="give images with the size.* that the model was initialised with"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, SIZE + 12, SIZE, 1)))


FROM = {
    name: (17, {}) for name in ("mobilenet_v1", "inverted", "resnet18", "bottlenecks", "squeezenet1_1", "googlenet")
}
FROM |= {
    name: (side, {})
    for name, side in {
        "alexnet": 63,
        "cell": 4,
        "cnn": 24,
        "convnext_tiny": 32,
        "densenet121": 29,
        "vgg11_bn": 32,
    }.items()
}
FROM |= {"resnet20": (3, {})}  # side of the smallest image
FROM |= {f"{name} small": (5, {"cifar_stem": True}) for name in ("mobilenet_v1", "resnet18", "bottlenecks")}


@pytest.mark.parametrize(
    "side, options",
    [(8, {}), (11, {"stride": 2, "pools": 2}), (1, {"stride": 3, "pools": 0}), (3, {"stride": 2, "pools": 1})],
)
def test_a_pixel_is_left_of_the_smallest_image_of_a_plain_network(side, options):
    model = MODELS["plain"](CLASSES, **options)

    def last(side):
        image = jnp.zeros((1, side, side, 1))
        features = jax.eval_shape(
            functools.partial(model.init_with_output, method="features"), jax.random.key(0), image
        )
        return features[0]["stage3"].shape[1:3]

    assert model.smallest == side and last(side) == (1, 1)
    with pytest.raises(InputError, match="enlarge it"):
        last(side - 1)
    with pytest.raises(InputError, match="stride=1.5"):
        jax.eval_shape(MODELS["plain"](stride=1.5).init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)))


@pytest.mark.parametrize("name", FROM)
def test_pooled_models_take_any_size_from_the_smallest_on(name):
    smallest, options = FROM[name]
    model = (ZOO | MODELS)[name.split()[0]](CLASSES, **options)
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, 64, 64, 1)))
    for shape in ((2, smallest + 16, smallest + 9, 1), (1, smallest, smallest, 1)):
        assert jax.eval_shape(model.apply, variables, jnp.zeros(shape)).shape == (shape[0], CLASSES)
    with pytest.raises(InputError, match=f"must be at least {smallest}x{smallest} pixels; enlarge it") as caught:
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 70, smallest - 1, 1)))
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
    model, x = ZOO[name](CLASSES, cifar_stem=small), jnp.zeros((1, 96, 64, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    features = jax.eval_shape(functools.partial(model.apply, method="features"), variables, x)
    assert {k: f.shape[1:3] for k, f in features.items()} == {
        k: (96 // s, 64 // s) for k, s in zip(["stem", *(f"stage{i}" for i in range(1, 6))], scales, strict=False)
    }


def test_a_bottleneck_strides_in_its_3x3():
    model, x = ZOO["bottlenecks"](CLASSES, cifar_stem=True), jnp.zeros((1, 16, 16, 3))
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    seen = jax.eval_shape(lambda v: model.apply(v, x, capture_intermediates=True)[1]["intermediates"], variables)[
        "stages_1_0"
    ]
    assert [seen[name]["__call__"][0].shape for name in ("conv1", "conv2", "conv3")] == [
        (1, 16, 16, 16),
        (1, 8, 8, 16),
        (1, 8, 8, 64),
    ]


@pytest.mark.parametrize("bottleneck", [False, True])
def test_zero_init_makes_blocks_the_identity(bottleneck):
    model = ResNet(CLASSES, (2,), bottleneck, cifar_stem=True, width=8, zero_init_residual=True)
    x = jnp.asarray(images(), jnp.float32) / 255
    variables = model.init(jax.random.key(0), x)
    first = variables["params"]["stages_0_0"]
    assert (
        first["conv1"]["norm"]["scale"].all() and not first["conv3" if bottleneck else "conv2"]["norm"]["scale"].any()
    )
    seen = model.apply(variables, x, capture_intermediates=True)[1]["intermediates"]
    before, after = (
        seen[name]["__call__"][0] for name in (("stages_0_0", "stages_0_1") if bottleneck else ("stem", "stages_0_1"))
    )
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
    expected = jax.jit(functools.partial(residual_by_hand, strides=2))(
        variables["params"]["stages_1_0"], out["features"]["stage1"]
    )
    _, seen = jax.jit(
        lambda: model.apply(variables, jnp.asarray(images(), jnp.float32) / 255, capture_intermediates=True)
    )()
    chex.assert_trees_all_close(seen["intermediates"]["stages_1_0"]["__call__"][0], expected, rtol=1e-4, atol=1e-4)


def test_mobilenet_refuses_no_width():
    with pytest.raises(InputError, match="width=0: must be above 0"):
        MODELS["mobilenet_v1"](width=0).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def drawn(path, like):
    """Draw values for a parameter or a statistic on the host, which is faster than to compile the model's `init`."""
    kind = path[-1].key
    if kind == "kernel":
        return np.random.default_rng(0).normal(size=like.shape).astype(np.float32) / math.sqrt(
            math.prod(like.shape[:-1])
        )
    return np.full(like.shape, kind not in ("bias", "mean"), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_variant_learns(name):
    # a block that is dropped for all rows would learn nothing
    model = MODELS[name](CLASSES, **({"drop_path": 0.0} if hasattr(MODELS[name](), "drop_path") else {}))
    height, _, channels = model.default_image
    side = height if name in FIXED or "vit" in name else max(model.smallest, 32)
    batch = {"image": jnp.asarray(images(channels, side)), "label": jnp.arange(4)}
    task = classification(model)
    variables = jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(task.init, jax.random.key(0), batch))
    params = variables.pop("params")

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params):
        loss = lambda p: (lambda mean, more: (mean.total, more[0]))(*task.loss(p, variables, batch, jax.random.key(1)))
        return jax.grad(loss, has_aux=True)(params)

    with native_lowering():  # the same function, compiled in less time
        grads, logits = run(params)
    chex.assert_tree_all_finite((grads, logits))
    still = [
        jax.tree_util.keystr(p)
        for p, g in jax.tree_util.tree_leaves_with_path(grads)
        if not np.any(g) and not untrained(p)
    ]
    assert not still


@pytest.mark.slow
def test_auxiliary_heads_count_in_the_loss_when_asked_for():
    model, _, variables, _ = ran("googlenet")
    params, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    batch = {"image": jnp.asarray(its_images("googlenet")), "label": jnp.arange(4)}
    key, x = jax.random.key(1), jnp.asarray(its_images("googlenet"), jnp.float32) / 255

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(params):
        loss = lambda p, auxiliary: classification(model, auxiliary=auxiliary).loss(p, state, batch, key)[0].total
        called = {"train": True, "rngs": {"dropout": key}, "mutable": ["batch_stats"], "method": "with_auxiliary"}
        (_, extra), _ = model.apply(variables, x, **called)
        grads = jax.grad(loss)(params, 0.3)
        return loss(params, 0.3), loss(params, 0.0), cross_entropy(extra[0], batch["label"]).sum(), grads["extra_0"]

    both, main, extra, grads = run(params)
    np.testing.assert_allclose(both, main + 0.3 * extra, rtol=1e-5)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    with pytest.raises(InputError, match="auxiliary=0.3: ResNet has no auxiliary heads"):
        classification(MODELS["resnet18"](CLASSES), auxiliary=0.3)


def test_lenet_pads_to_32_pixels():
    model, _, variables, out = ran("lenet5")
    padded = jnp.pad(jnp.asarray(images(), jnp.float32) / 255, ((0, 0), (2, 2), (2, 2), (0, 0)))
    chex.assert_trees_all_close(jax.jit(model.apply)(variables, padded), out["logits"], atol=1e-5)


def test_whitening_makes_patches_white():
    rng = np.random.default_rng(0)
    # neighbours and channels go together
    pixels = np.cumsum(np.cumsum(rng.normal(size=(50, 12, 12, 3)), 1), 2) @ rng.normal(size=(3, 3))
    model = MODELS["speednet"](CLASSES, widths=(8,), whitening=whitening(pixels, epsilon=0.0))
    x = jnp.asarray(pixels, jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    stem = model.apply(jax.tree.map(lambda p: jnp.zeros(p.shape), variables), x, method="features")["stem"]
    inside = np.asarray(stem[:, :-1, :-1], np.float64)  # the last row and column see a border of zeros
    white = (inside[..., :12] - inside[..., 12:]).reshape(-1, 12)  # gelu(y) - gelu(-y) = y
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(12), atol=2e-3)
    # columns are eigenvectors over the root of their variance
    variances = 1 / np.square(np.asarray(model.whitening)).sum(0)
    assert (np.diff(variances) < 0).all() and variances[0] > 100 * variances[-1]


def test_whitening_leaves_faint_directions_alone():
    # two of three directions of colour are empty
    gray = np.repeat(np.random.default_rng(0).normal(size=(20, 8, 8, 1)), 3, -1)
    assert np.abs(whitening(gray, epsilon=1e-2)).max() <= 10


@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 1, 8, 3), (0, 8, 8, 3)])
def test_whitening_refuses(shape):
    with pytest.raises(InputError, match="must be"):
        whitening(np.zeros(shape))


def test_speednet_refuses_the_whitening_of_other_channels():
    model = MODELS["speednet"](CLASSES, whitening=np.eye(12).tolist())
    with pytest.raises(InputError, match="1 channels, but whitening is a matrix of"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(InputError, match="must be at least 8x8 pixels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 7, 32, 3)))


def test_speednet_begins_with_filters_that_hand_their_channel_on():
    for c, k in ((4, 6), (6, 4)):
        kernel = np.asarray(partly_identity(jax.random.key(0), (3, 3, c, k)))
        middle, around = kernel[1, 1, :, :c], np.delete(kernel.reshape(9, c, k), 4, 0)[..., :c]
        assert (middle == np.eye(c, k)[:, :c]).all() and not around.any()
        # uniform up to the root of 1 / 36 inputs
        assert k < c or 0.08 < kernel[..., c:].std() < np.abs(kernel[..., c:]).max() <= 1 / 6


def test_tables_are_complete():
    assert {name for name, *_ in PARAMETERS} == set(MODELS)
    # too long to compile
    kinds = {type(make(CLASSES)) for make in ZOO.values()} - {Short} | {
        GoogLeNet,
        type(MODELS["inception_v3"]()),
    }
    assert kinds == {type(make()) for make in MODELS.values()}


def test_options_that_do_not_fit_together_are_one_line():
    with pytest.raises(InputError, match="width=100, heads=3: the width must be a multiple of the heads"):
        MODELS["vit_tiny_patch16_224"](CLASSES, width=100, heads=3).init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    with pytest.raises(InputError, match=r"widths=\(\): give at least one"):
        UNet(CLASSES, widths=()).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
