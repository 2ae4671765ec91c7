"""Explanations equal closed forms, loops and finite differences, and their sums are complete."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError, explain, ops
from jaxcnn.layers import BatchNorm, ConvNorm, Dense, Network
from jaxcnn.models import MODELS, DenseNet, Inverted, ResNet
from jaxcnn.models.mobilenet import Row


class Linear(Network):
    """A matrix."""

    @nn.compact
    def features(self, x, *, train=False, row_mask=None):
        return {"flat": x.reshape(len(x), -1)}

    @nn.compact
    def head(self, features, *, train=False):
        return Dense(3, name="logits")(features["flat"])


class Hidden(Network):
    """Two dense layers."""

    def setup(self):
        self.hidden, self.logits = Dense(5), Dense(3)

    def features(self, x, *, train=False, row_mask=None):
        return {"hidden": nn.relu(self.hidden(x.reshape(len(x), -1)))}

    def head(self, features, *, train=False):
        return self.logits(features["hidden"])


class Tiny(Network):
    """A convolution with BatchNorm, the mean or all places, a dense layer."""

    pool: int = 1
    mean: bool = True
    activation: object = nn.relu

    def setup(self):
        self.stem = ConvNorm(4, pool=self.pool, activation=self.activation)
        self.logits = Dense(3)

    def features(self, x, *, train=False, row_mask=None):
        return {"stem": self.stem(x, train=train, row_mask=row_mask)}

    def head(self, features, *, train=False):
        x = features["stem"]
        return self.logits(ops.global_avg_pool(x) if self.mean else x.reshape(len(x), -1))


def drawn(model, shape, seed=0):
    """Variables and images with numbers that are all different; BatchNorm's scales have both signs."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=shape).astype(np.float32)
    shapes = jax.eval_shape(lambda key: model.init(key, image, train=False), jax.random.key(0))

    def draw(path, s):
        name = jax.tree_util.keystr(path, simple=True, separator=".").rsplit(".", 1)[-1]
        if name == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(s.shape[:-1])), s.shape).astype(np.float32)
        if name in ("scale", "var"):
            return (rng.uniform(0.5, 1.5, s.shape) * (rng.choice([-1, 1], s.shape) if name == "scale" else 1)).astype(
                np.float32
            )
        return rng.normal(0, 0.1, s.shape).astype(np.float32)

    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(draw, shapes)), jnp.asarray(image)


@pytest.fixture(scope="module")
def linear():
    model = Linear()
    return model, *drawn(model, (2, 3, 4, 2))


@pytest.fixture(scope="module")
def hidden():
    model = Hidden()
    return model, *drawn(model, (2, 3, 4, 2))


@pytest.fixture(scope="module")
def tiny():
    model = Tiny()
    return model, *drawn(model, (2, 6, 7, 2))


def kernel(variables, target):
    """Return the weights `[B, 3, 4, 2]` of a linear network for each target."""
    return np.asarray(variables["params"]["logits"]["kernel"]).T.reshape(3, 3, 4, 2)[np.asarray(target)]


def test_a_linear_network_has_closed_forms(linear):
    model, variables, image = linear
    target, base = jnp.array([2, 0]), 0.3
    weights = kernel(variables, target)

    @jax.jit
    def run(image):
        smooth = explain.smooth_grad(model, variables, image, target, key=jax.random.key(0), samples=3)
        found = explain.integrated_gradients(model, variables, image, target, baseline=base, steps=4)
        share = explain.lrp(model, variables, image, target)
        return explain.input_gradient(model, variables, image, target), smooth, found, share

    gradient, smooth, found, share = run(image)
    np.testing.assert_allclose(gradient, weights, rtol=1e-6)
    np.testing.assert_allclose(smooth, weights, rtol=1e-5)
    np.testing.assert_allclose(found.relevance, weights * (image - base), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.error, 0, atol=1e-5)
    np.testing.assert_allclose(share.relevance, weights * image, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(share.biases, variables["params"]["logits"]["bias"][target], rtol=1e-5)
    np.testing.assert_allclose(share.residual, 0, atol=1e-5)


def test_the_gradient_equals_finite_differences(tiny):
    model, variables, image = tiny
    apply = jax.jit(lambda image: model.apply(variables, image, train=False))
    target = np.asarray(apply(image)).argmax(1)
    found = jax.jit(lambda x: explain.input_gradient(model, variables, x))(image)
    for i, j, c in ((0, 0, 0), (3, 2, 1), (5, 6, 0)):
        step = np.zeros((1, 6, 7, 2), np.float32)
        step[0, i, j, c] = 1e-2
        change = (apply(image + step) - apply(image - step))[np.arange(2), target] / 2e-2
        np.testing.assert_allclose(found[:, i, j, c], change, rtol=2e-2, atol=2e-3)


def test_smooth_grad_is_the_mean_over_noise(tiny):
    model, variables, image = tiny
    key, target = jax.random.key(3), jnp.array([1, 2])
    spread = np.ptp(np.asarray(image).reshape(2, -1), 1)[:, None, None, None] * 0.2
    noisy = [image + spread * jax.random.normal(k, image.shape) for k in jax.random.split(key, 3)]
    gradient = jax.jit(lambda x: explain.input_gradient(model, variables, x, target))
    expected = np.mean([gradient(x) for x in noisy], 0)
    found = jax.jit(lambda x: explain.smooth_grad(model, variables, x, target, key=key, samples=3, noise=0.2))(image)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_add_up(tiny):
    model, variables, image = tiny
    integrate = lambda steps, chunk=1: jax.jit(
        lambda x: explain.integrated_gradients(model, variables, x, 1, steps=steps, chunk=chunk)
    )
    coarse, fine, chunked = integrate(2)(image), integrate(128)(image), integrate(128, 32)(image)
    whole, nothing = (model.apply(variables, x, train=False)[:, 1] for x in (image, 0 * image))
    np.testing.assert_allclose(fine.difference, whole - nothing, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fine.error, fine.relevance.sum((1, 2, 3)) - fine.difference, atol=1e-6)
    assert np.abs(fine.error).max() < 5e-3 < np.abs(coarse.error).max()
    np.testing.assert_allclose(chunked.relevance, fine.relevance, rtol=1e-4, atol=1e-6)


def test_guided_backprop_by_hand(hidden):
    model, variables, image = hidden
    p = jax.tree.map(np.asarray, variables["params"])
    flat = np.asarray(image).reshape(2, -1)
    before = flat @ p["hidden"]["kernel"] + p["hidden"]["bias"]
    back = p["logits"]["kernel"][:, 1][None] * (before > 0)
    expected = (np.maximum(back, 0) @ p["hidden"]["kernel"].T).reshape(image.shape)
    found, plain = jax.jit(
        lambda x: [f(model, variables, x, 1) for f in (explain.guided_backprop, explain.input_gradient)]
    )(image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - plain).max() > 0.01  # a negative one was on the way


def test_grad_cam_by_hand(tiny):
    model, variables, image = tiny
    activation = np.asarray(model.apply(variables, image, train=False, method="features")["stem"])
    weights = np.asarray(variables["params"]["logits"]["kernel"])[:, 2] / (6 * 7)  # the head takes the mean
    expected = np.maximum((activation * weights).sum(-1), 0)
    found = jax.jit(lambda x: [f(model, variables, x, 2) for f in (explain.grad_cam, explain.grad_cam_plus_plus)])(
        image
    )
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-7)
    share = weights**2 / (2 * weights**2 + activation.sum((1, 2)) * weights**3)
    times = (share * np.maximum(weights, 0)) * 42
    expected = np.maximum((activation * times[:, None, None]).sum(-1), 0)
    np.testing.assert_allclose(found[1], expected, rtol=1e-3, atol=1e-6)


def test_grad_cam_of_an_inner_layer():
    """The gradient to a layer, against that of the rest of the network taken apart."""
    model = ResNet(3, (1, 1), False, True, width=4)
    variables, image = drawn(model, (2, 8, 8, 3))

    @jax.jit
    def run(image):
        bound = model.bind(variables)
        features = bound.features(image)
        rest = lambda x: bound.head({"stage2": functools.reduce(lambda x, s: s[0](x, train=False), bound.stages, x)})[
            :, 1
        ].sum()
        found = [explain.grad_cam(model, variables, image, 1, layer=name) for name in ("stem", None)]
        return features["stem"], features["stage2"], jax.grad(rest)(features["stem"]), found

    stem, last, gradient, found = run(image)
    expected = np.maximum((gradient.mean((1, 2), keepdims=True) * stem).sum(-1), 0)
    np.testing.assert_allclose(found[0], expected, rtol=1e-3, atol=1e-6)
    weights = variables["params"]["logits"]["kernel"][:, 1] / 16  # the head takes the mean of 4x4 places
    small = jax.nn.relu((last * weights[None, None, None]).sum(-1))
    np.testing.assert_allclose(found[1], jax.image.resize(small, (2, 8, 8), "bilinear"), rtol=1e-3, atol=1e-6)


class One(Tiny):
    """The same with one logit, or with a given number of logits."""

    outputs: int = 1

    def setup(self):
        self.stem = ConvNorm(4, activation=nn.relu)
        self.logits = Dense(self.outputs)


METHODS = {
    "gradient": explain.input_gradient,
    "smooth_grad": functools.partial(explain.smooth_grad, key=jax.random.key(0), samples=2),
    "integrated_gradients": lambda *given: explain.integrated_gradients(*given, steps=4).relevance,
    "guided_backprop": explain.guided_backprop,
    "grad_cam": explain.grad_cam,
    "grad_cam_plus_plus": explain.grad_cam_plus_plus,
    "occlusion": functools.partial(explain.occlusion, window=3),
    "lrp": lambda *given: explain.lrp(*given).relevance,
    "lrp_gamma": lambda *given: explain.lrp(*given, gamma=0.5).relevance,
    "deletion": lambda *given: explain.deletion_insertion(*given[:3], given[2].sum(-1), given[3], steps=3).deleted,
}


@functools.cache
def one_and_two(sign):
    """Variables for one logit z and for the two logits 0 and `sign` z, and one image of each class by the first."""
    variables, image = drawn(One(), (6, 6, 7, 2), 1)
    dense = variables["params"]["logits"]
    z = np.asarray(One().apply(variables, image, train=False))[:, 0]
    dense["bias"] -= (z.min() + z.max()) / 2
    two = {name: sign * jnp.concatenate([0 * x, x], -1) for name, x in dense.items()}
    return (
        variables,
        {**variables, "params": {**variables["params"], "logits": two}},
        image[np.array([z.argmin(), z.argmax()])],
    )


@pytest.mark.parametrize("name", METHODS)
def test_one_logit_is_explained_like_two(name):
    """The map for class 0 is the negative of the map for class 1."""
    run = jax.jit(lambda v, x, target: METHODS[name](One(), v, x, target))
    two = jax.jit(lambda v, x: METHODS[name](One(outputs=2), v, x, 1))
    for target, sign in ((1, 1), (0, -1)):
        variables, same, image = one_and_two(sign)
        mine = run(variables, image, jnp.array(target))
        np.testing.assert_allclose(mine, two(same, image), rtol=1e-3, atol=1e-6)
        assert np.abs(mine).max() > 1e-4  # not blank


def test_the_predicted_class_of_one_logit_is_explained_by_default():
    variables, _, image = one_and_two(1)
    run = jax.jit(lambda target: explain.input_gradient(One(), variables, image, target))
    by_default = jax.jit(lambda: explain.input_gradient(One(), variables, image))()
    np.testing.assert_allclose(by_default, run(jnp.array([0, 1])), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(by_default, -run(jnp.array([1, 0])), rtol=1e-4, atol=1e-6)


def test_relevance_of_one_logit_adds_up_for_both_classes():
    variables, _, image = one_and_two(1)
    for_, against = (jax.jit(lambda x, k=k: explain.lrp(One(), variables, x, k, epsilon=0.1))(image) for k in (1, 0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, -b, rtol=1e-5), for_, against)
    np.testing.assert_allclose(against.residual, 0, atol=1e-5)
    like = lambda unit: explain.maximise(One(), variables, (6, 7, 2), unit, key=jax.random.key(0), steps=8)
    raised = jax.jit(lambda: [like(0), like(1)])()
    low, high = np.asarray(One().apply(variables, jnp.stack(raised), train=False))[:, 0]
    assert low < high - 0.1


def test_layers_that_do_not_exist(tiny, hidden):
    model, variables, image = tiny
    with pytest.raises(InputError, match="^layer='stage9': Tiny has no such layer; it has stem$"):
        explain.grad_cam(model, variables, image, layer="stage9")
    with pytest.raises(
        InputError, match=r"^Hidden has no spatial features \(hidden have no height and width\): use a gradient method$"
    ):
        explain.grad_cam(*hidden)
    model = MODELS["vit_tiny_patch16_224"](3, patch=4, width=8, heads=1, depth=4)
    variables, image = drawn(model, (1, 8, 8, 3))
    with pytest.raises(
        InputError, match="^layer='stage4': is not spatial, or does not lead to the logits; use one of stem$"
    ):
        explain.grad_cam(model, variables, image, layer="stage4")
    with pytest.raises(InputError, match="^lrp: ViT computes '[a-z]+' from the image, which has no rule; use"):
        explain.lrp(model, variables, image)
    with pytest.raises(InputError, match="^Dense has no features"):
        explain.grad_cam(Dense(3), {"params": {}}, image)
    with pytest.raises(InputError, match="^target=3: must be a class from 0 to 2"):
        explain.input_gradient(*hidden, 3)
    with pytest.raises(InputError, match="^target of shape"):
        explain.input_gradient(*hidden, jnp.array([0, 1, 2]))
    for target in (np.int64(-1), np.array([0, 3]), jnp.array([3, 0])):
        with pytest.raises(
            InputError, match=f"^target={'-1' if target.ndim == 0 else '3'}: must be a class from 0 to 2"
        ):
            explain.input_gradient(*hidden, target)
    late = jax.jit(lambda k: explain.input_gradient(*hidden, k))(jnp.array([3, 0]))  # not known while tracing
    assert np.isnan(late[0]).all() and not np.isnan(late[1]).any()
    with pytest.raises(InputError, match="^target=2: must be a class from 0 to 1"):
        explain.grad_cam(One(), *drawn(One(), (1, 4, 4, 1)), 2)


@pytest.mark.parametrize("window, strides", [(3, 2), ((2, 7), None)])
def test_occlusion_by_loops(tiny, window, strides):
    model, variables, image = tiny
    found = jax.jit(lambda x: explain.occlusion(model, variables, x, 1, window=window, strides=strides, fill=0.5))(
        image
    )
    h, w = (window, window) if isinstance(window, int) else window
    rows, columns = ([0, 2, 3], [0, 2, 4]) if window == 3 else ([0, 1, 2, 3, 4], [0])
    apply = jax.jit(lambda x: model.apply(variables, x, train=False)[:, 1])
    total, count = np.zeros((2, 6, 7)), np.zeros((6, 7))
    for top in rows:
        for left in columns:
            covered = np.array(image)
            covered[:, top : top + h, left : left + w] = 0.5
            total[:, top : top + h, left : left + w] += np.asarray(apply(image) - apply(covered))[:, None, None]
            count[top : top + h, left : left + w] += 1
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-5)


def test_bad_options(tiny):
    for options, line in (
        ({"window": 9}, r"window=\(9, 9\): larger than the image of 6x7"),
        ({"window": 2, "strides": 3}, "strides=.*at most the window"),
    ):
        with pytest.raises(InputError, match=line):
            explain.occlusion(*tiny, **options)
    with pytest.raises(InputError, match="steps=10, chunk=4"):
        explain.integrated_gradients(*tiny, steps=10, chunk=4)
    with pytest.raises(InputError, match="samples=0"):
        explain.smooth_grad(*tiny, key=jax.random.key(0), samples=0)
    with pytest.raises(InputError, match="gamma=-1"):
        explain.lrp(*tiny, gamma=-1)
    with pytest.raises(InputError, match="maps of shape"):
        explain.deletion_insertion(*tiny, jnp.ones((2, 3, 3)))
    with pytest.raises(InputError, match="no part 'body'"):
        explain.randomised(*tiny, lambda v: v, key=jax.random.key(0), layers=["body"])


def layer_rule(w, b, a, relevance, gamma=0.0, epsilon=0.0, bounds=None):
    """Relevance of each input of a layer with the matrix `w` [out, in], for one image, by the sums of the papers."""
    z = a * w  # contributions [out, in]
    if bounds is not None:
        low, high = bounds
        z = a * w - low * np.maximum(w, 0) - high * np.minimum(w, 0)
        return (z / z.sum(1, keepdims=True) * relevance[:, None]).sum(0)
    total = z.sum(1) + b
    sign = np.where(total > 0, 1, -1)
    same, same_b = np.where(z * sign[:, None] > 0, z, 0), np.where(b * sign > 0, b, 0)
    z, total = z + gamma * same, total + gamma * (same.sum(1) + same_b)
    total = total + epsilon * np.where(total < 0, -1, 1)
    return (z / total[:, None] * relevance[:, None]).sum(0)


RULES = {
    "zero": {},
    "gamma": {"gamma": 0.5},
    "bounds": {"gamma": 0.5, "bounds": (-4.0, 5.0)},
}


QUICK = ("dense", "zero"), ("dense", "bounds"), ("pooled", "gamma"), ("pooled", "bounds")
CASES = [(kind, rule) for kind in ("dense", "convolution", "pooled") for rule in RULES]


@pytest.mark.parametrize("kind, rule", [pytest.param(*c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_lrp_equals_the_sums_of_the_papers(kind, rule):
    """Two layers as matrices; the Jacobian folds BatchNorm (also with negative scales) and pooling into the first."""
    options = RULES[rule]
    model = Hidden() if kind == "dense" else Tiny(2 if kind == "pooled" else 1, False)
    variables, image = drawn(model, (2, 4, 4, 2), seed=4)
    found = jax.jit(lambda x: explain.lrp(model, variables, x, 1, **options))(image)
    bare = Tiny(model.pool, False, lambda x: x) if kind != "dense" else None
    dense = variables["params"].get("hidden")

    def first(x):
        return (
            x.reshape(-1) @ dense["kernel"] + dense["bias"]
            if bare is None
            else bare.apply(variables, x[None], train=False, method="features")["stem"].reshape(-1)
        )

    p = jax.tree.map(np.asarray, variables["params"]["logits"])
    slope = jax.jit(jax.jacrev(first))
    for i, x in enumerate(image):
        w, z, a = (
            np.asarray(slope(x), np.float64).reshape(-1, x.size),
            np.asarray(first(x)),
            np.asarray(x, np.float64).ravel(),
        )
        upper = np.maximum(z, 0)
        relevance = np.where(np.arange(3) == 1, upper @ p["kernel"] + p["bias"], 0)
        gamma = {"gamma": options.get("gamma", 0)}
        relevance = layer_rule(p["kernel"].T, p["bias"], upper, relevance, **gamma)
        if "bounds" in options:
            gamma = {"bounds": options["bounds"]}
        expected = layer_rule(w, z - w @ a, a, relevance, **gamma)
        np.testing.assert_allclose(np.asarray(found.relevance[i]).ravel(), expected, rtol=2e-3, atol=2e-5)
    np.testing.assert_allclose(found.residual, 0, atol=1e-4)


def test_epsilon_is_in_units_of_the_layer(hidden):
    model, variables, image = hidden
    found = jax.jit(lambda x: explain.lrp(model, variables, x, 1, epsilon=0.2))(image)
    p = jax.tree.map(np.asarray, variables["params"])
    for i, x in enumerate(np.asarray(image).reshape(2, -1)):
        z = x @ p["hidden"]["kernel"] + p["hidden"]["bias"]
        a = np.maximum(z, 0)
        out = a @ p["logits"]["kernel"] + p["logits"]["bias"]
        size = lambda v: 0.2 * np.sqrt((v**2).mean())
        relevance = layer_rule(
            p["logits"]["kernel"].T, p["logits"]["bias"], a, np.where(np.arange(3) == 1, out, 0), epsilon=size(out)
        )
        expected = layer_rule(p["hidden"]["kernel"].T, p["hidden"]["bias"], x, relevance, epsilon=size(z))
        np.testing.assert_allclose(np.asarray(found.relevance[i]).ravel(), expected, rtol=1e-3, atol=1e-5)
    assert np.abs(found.absorbed / found.logit).min() > 0.01 and np.abs(found.residual).max() < 1e-5


TABLE = ((Row(8, 8), Row(16, 8, 3, 2)), (Row(16, 16, 3, 1, 8, nn.hard_swish),))
FAMILIES = {
    "cnn": (functools.partial(MODELS["cnn"], widths=(4, 4)), 12),
    "densenet": (functools.partial(DenseNet, blocks=(2, 1), growth=4, width=8), 32),
    "inverted": (functools.partial(Inverted, table=TABLE, ends=(8, 16), activation=nn.relu6, gate=nn.hard_sigmoid), 17),
    "lenet5": (MODELS["lenet5"], 14),
    "residual": (
        functools.partial(ResNet, blocks=(1, 1), cifar_stem=True, width=4, attention=jc.models.resnet.squeeze),
        9,
    ),
    "speednet": (functools.partial(MODELS["speednet"], widths=(4, 4)), 8),
}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "residual" else pytest.mark.slow) for f in FAMILIES]
)
def test_relevance_adds_up_in_every_family(family):
    make, size = FAMILIES[family]
    model = make(num_classes=3)
    variables, image = drawn(model, (2, size, size, 3))

    def run(image):
        found = {
            name: explain.lrp(model, variables, image, **o)
            for name, o in {"zero": {}, "epsilon": {"epsilon": 0.1}}.items()
        }
        if family in ("residual", "cnn", "densenet"):
            found["gamma"] = explain.lrp(model, variables, image, gamma=0.25, bounds=(-5.0, 5.0))
        return {name: (one, one.residual) for name, one in found.items()}, model.apply(variables, image, train=False)

    found, outputs = jax.jit(run)(image)
    for one, residual in found.values():
        np.testing.assert_allclose(one.logit, outputs.max(-1), rtol=1e-3, atol=1e-4)
        assert one.relevance.shape == image.shape and float(jnp.abs(one.relevance).max()) > 1e-3
        assert np.abs(residual).max() < 1e-3 * np.abs(one.logit).min()
    assert np.abs(found["zero"][0].biases).max() > 1e-3  # there was something to account for
    assert np.abs(found["epsilon"][0].absorbed).max() > 1e-3
    difference = np.abs(found["zero"][0].relevance - found["epsilon"][0].relevance).max()
    assert difference > 0.01 * np.abs(found["zero"][0].relevance).max()


OTHERS = """
    alexnet cbam_resnet20 efficientnet_b0 googlenet inception_v3 mobilenet_v1 mobilenet_v3_small resnext50_32x4d
    squeezenet1_1 vgg11_bn
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_family_has_rules(name):
    model, image = MODELS[name](5), jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), image)
    found = jax.eval_shape(
        lambda v, x: explain.lrp(model, v, x, gamma=0.25, epsilon=0.1, bounds=(-2, 2)), variables, image
    )
    assert found.relevance.shape == image.shape


def test_rule_zero_is_gradient_times_input_under_relu(tiny):
    model, variables, image = tiny
    found = jax.jit(
        lambda x: (explain.lrp(model, variables, x, 0).relevance, x * explain.input_gradient(model, variables, x, 0))
    )(image)
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)


class Changed(Linear):
    """Its pixels are normalised before the first layer."""

    @nn.compact
    def features(self, x, *, train=False, row_mask=None):
        return {"flat": BatchNorm()(x, train=False).reshape(len(x), -1)}


def test_bounds_need_a_first_layer():
    model = Changed()
    variables, image = drawn(model, (1, 3, 4, 2))
    with pytest.raises(
        InputError, match="^bounds: Changed changes the pixels before its first layer; leave bounds out"
    ):
        explain.lrp(model, variables, image, bounds=(-1, 1))


def test_heat():
    x = jnp.array([[[[1.0, -3.0]]]])
    assert explain.heat(x).tolist() == [[[-2.0]]] and explain.heat(x, absolute=True).tolist() == [[[3.0]]]
