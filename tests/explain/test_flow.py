"""Receptive fields against what a change of a pixel changes, and multiply-adds against counts by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import ops
from jaxcnn.explain import receptive_field

SIZE = 14, 11
IMAGE = (1, *SIZE, 2)


def conv(x, features=2, window=(3, 3), **options):
    return ops.conv(x, jnp.full((*window, x.shape[-1] // options.get("groups", 1), features), 0.1), **options)


def transposed(x, window=3, **options):
    return ops.conv_transpose(x, jnp.ones((window, window, x.shape[-1], 2)), **options)


def flat(x):
    return x.reshape(len(x), -1, 2)


def to_depth(x):  # 3x2 places become channels
    return x.reshape(len(x), 4, 3, 4, 2, 2).transpose(0, 1, 3, 2, 4, 5).reshape(len(x), 4, 4, 12)


def traced(f, shape=IMAGE):
    with ops.native_lowering():  # anew: what was traced elsewhere may have another lowering
        return jax.make_jaxpr(lambda x: f(x))(jax.ShapeDtypeStruct(shape, jnp.float32))


def field(f, shape=IMAGE):
    (out,) = receptive_field.walk(traced(f, shape), [receptive_field.image_field(shape)])[1]
    return out


def predicted(f):
    """`[h, w, H, W]`: whether the output at one place depends on the image at another, as the fields say."""
    places = np.indices((*traced(f).out_avals[0].shape[1:3], *SIZE))
    depends = np.ones(places.shape[1:], bool)
    for r, at in zip(field(f), places[2:], strict=True):
        index = places[r.axis - 1] if r.axis is not None else 0
        depends &= (float(r.jump) * index + float(r.low) <= at) & (at <= float(r.jump) * index + float(r.high))
    return depends


def true(f):
    """The same, found by trying: which outputs are others if one pixel is another."""
    changed = jnp.concatenate(
        [jnp.ones(IMAGE), 1 + 2 * jnp.eye(SIZE[0] * SIZE[1]).reshape(-1, *SIZE, 1) * jnp.ones(IMAGE)]
    )
    with ops.native_lowering():
        plain, *others = np.asarray(jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})(changed))
    moved = (np.abs(np.stack(others) - plain) > 1e-4 * np.abs(plain)).any(-1)
    return np.moveaxis(moved.reshape(*SIZE, *plain.shape[:2]), (0, 1), (2, 3))


def boxed(depends):
    """Fill the box around the places that each output depends on: strides, dilation and branches leave gaps."""
    upto = lambda d: np.logical_or.accumulate(d, -1)
    spans = [upto(d) & upto(d[..., ::-1])[..., ::-1] for d in (depends.any(3), depends.any(2))]
    return spans[0][..., :, None] & spans[1][..., None, :]


EXACT = {
    "valid": functools.partial(conv, padding="VALID"),
    "oblong": functools.partial(conv, window=(5, 2)),
    "strides": functools.partial(conv, strides=(3, 2), padding=((2, 0), (1, 3))),
    "dilation": functools.partial(conv, dilation=2, padding="VALID"),
    "groups": functools.partial(conv, groups=2),
    "deep": lambda x: conv(conv(conv(x, strides=2, window=(7, 7)), strides=2), padding="VALID"),
    "max pool": lambda x: ops.max_pool(conv(x), 3, strides=2, padding=1),
    "mean pool": lambda x: conv(ops.avg_pool(x, 3, strides=2, padding="SAME")),
    "transposed": lambda x: conv(transposed(x, 2, strides=2), padding="VALID"),
    "residual": lambda x: conv(x, strides=2) + conv(x, window=(1, 1), strides=2),
    "branches": lambda x: jnp.concatenate([conv(x, window=(5, 1)), conv(x, window=(1, 3)), x], -1),
    "split": lambda x: conv(jnp.split(x, 2, 1)[1], padding="VALID"),
    "slices": lambda x: conv(x[:, 2::3, :-1], padding="VALID"),
    "padded": lambda x: conv(jnp.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0))), padding="VALID"),
    "cropped": lambda x: lax.pad(x, 0.0, ((0, 0, 0), (-2, 1, 0), (1, -3, 0), (0, 0, 0))),
    "to depth": lambda x: conv(to_depth(x[:, :12, :8]), padding="VALID"),
    "one axis": lambda x: x.mean(2, keepdims=True) + conv(x),
    "global": lambda x: x * jax.nn.sigmoid(conv(x.mean((1, 2), keepdims=True))),
    "flat": lambda x: (x.reshape(len(x), -1) @ jnp.ones((np.prod(IMAGE), 3)))[:, None, None],
    "turned": lambda x: conv(x.transpose(0, 2, 1, 3), strides=(2, 1)).transpose(0, 2, 1, 3),
    "vmapped": lambda x: jax.vmap(lambda row: conv(row[None])[0])(x),
    "remat": jax.checkpoint(lambda x: jnp.sin(conv(jax.jit(conv)(x)))),
    "condition": lambda x: lax.cond(jnp.zeros(()) > 1, conv, lambda x: conv(x, window=(5, 5)), x),
    "attention": lambda x: (jax.nn.softmax(flat(x) @ flat(x).swapaxes(1, 2)) @ flat(x)).reshape(x.shape),
    "matrix": lambda x: jnp.einsum("bhwc,cd->bhwd", conv(x), jnp.ones((2, 3))),
}
LARGER = {  # too large, never too small
    "resized": lambda x: jax.image.resize(x, (len(x), 20, 20, 2), "bilinear"),
    "flipped": lambda x: jnp.flip(x, 1),
    "sums": lambda x: jnp.cumsum(x, 1),
    "gathered": lambda x: x[:, np.array([3, 1, 8])],
    "different jumps": lambda x: conv(x[:, ::2, :5]) + conv(x[:, 4:11, 1:10:2]),
    "loop": lambda x: lax.fori_loop(0, 2, lambda _, x: conv(x), x),
    "shift": lambda x: jnp.concatenate([x[:, 1:], x[:, :1]], 1)[:, :-1],
    "wrapped": lambda x: jnp.roll(x, 1, 1),
    "tiles": lambda x: x[:, :12].reshape(len(x), 3, 4, 11, 2).reshape(len(x), 3, 44, 2),
    "pooled, transposed": lambda x: conv(transposed(ops.max_pool(x), 2, strides=2)),
    "transposed far": functools.partial(transposed, strides=3),
}


@pytest.mark.parametrize("name", EXACT)
def test_a_field_is_where_pixels_matter(name):
    expected = true(EXACT[name])
    assert expected.any()
    np.testing.assert_array_equal(predicted(EXACT[name]), boxed(expected))


@pytest.mark.parametrize("name", LARGER)
def test_a_field_is_never_too_small(name):
    expected = true(LARGER[name])
    assert expected.any() and (predicted(LARGER[name]) | ~expected).all()


@pytest.mark.parametrize("seed", [0, 2, 3, 4, 5])  # in others every output sees the rim
def test_random_networks(seed):
    rng = np.random.default_rng(seed)

    def layer():
        kind, k, s, d = rng.integers(4), int(rng.integers(1, 4)), int(rng.integers(1, 3)), int(rng.integers(1, 3))
        pool = functools.partial(ops.max_pool, window=k + 1, strides=s, padding="SAME")
        same = functools.partial(conv, window=(k, 3), dilation=d)
        return [
            pool,
            functools.partial(same, strides=(s, 1)),
            lambda x: x + same(x),
            lambda x: jnp.concatenate([x, same(x)], -1),
        ][kind]

    layers = [layer() for _ in range(3)]
    f = lambda x: functools.reduce(lambda x, layer: layer(x), layers, x)
    expected, found = boxed(true(f)), predicted(f)
    assert (found | ~expected).all()
    rim = np.pad(
        np.zeros(np.array(found.shape[2:]) - 2, bool), 1, constant_values=True
    )  # beyond it taps miss the image
    inner = ~(found & rim).any((2, 3))
    assert inner.any() and (found == expected)[inner].all()


def vgg16(x, last=5):
    for count in (2, 2, 3, 3, 3)[:last]:
        for _ in range(count):
            x = conv(x, 1)
        x = ops.max_pool(x)
    return x


def test_published_receptive_fields():
    shape = (1, 224, 224, 1)
    assert receptive_field.sizes(field(vgg16, shape), shape) == (212, 212)
    assert receptive_field.sizes(field(lambda x: conv(conv(conv(vgg16(x, 4), 1), 1), 1), shape), shape) == (196, 196)
    assert field(vgg16, shape)[0].jump == 32


def test_sizes():
    upsampled = field(functools.partial(transposed, strides=2, window=4))  # two windows of two, in turn
    assert upsampled[0].jump * 2 == 1 and receptive_field.sizes(upsampled, IMAGE) == (2, 2)
    assert receptive_field.sizes(field(lambda x: x.mean((1, 2), keepdims=True)), IMAGE) == SIZE
    assert receptive_field.sizes(field(lambda x: x[:, 2:5].mean((1, 2))), IMAGE) == (3, SIZE[1])
    assert receptive_field.sizes(field(lambda x: conv(conv(x, window=(9, 9)), window=(9, 9))), IMAGE) == (
        17,
        17,
    )  # larger than the image
    assert receptive_field.sizes(field(lambda x: jnp.ones((1, 3, 3, 1))), IMAGE) is None
    line = jax.make_jaxpr(lambda x: x[:, ::2])(jax.ShapeDtypeStruct((1, 8, 3), jnp.float32))
    assert receptive_field.walk(line, [receptive_field.image_field((1, 8, 3))])[1] == [
        (receptive_field.Reach(1, 2, 0, 0),)
    ]


def looped(x):
    return lax.scan(lambda x, _: (conv(x), None), x, None, length=3)[0]


@pytest.mark.parametrize(
    "f, flop",
    [
        (conv, 14 * 11 * 9 * 2 * 2),
        (functools.partial(conv, features=4, groups=2, strides=2), 7 * 6 * 9 * 1 * 4),
        (
            functools.partial(transposed, strides=2),
            14 * 11 * 9 * 2 * 2,
        ),  # each place of the input meets the whole kernel
        (lambda x: jnp.einsum("bhwc,dc->bhwd", x, jnp.ones((5, 2))), 14 * 11 * 2 * 5),
        (EXACT["attention"], 2 * (14 * 11) ** 2 * 2),
        (lambda x: ops.max_pool(jax.nn.gelu(x) * 3), 0),
        (looped, 3 * 14 * 11 * 9 * 2 * 2),
        (lambda x: lax.cond(x.sum() > 0, lambda x: x, conv, x), 14 * 11 * 9 * 2 * 2),
        (jax.checkpoint(jax.jit(conv)), 14 * 11 * 9 * 2 * 2),
    ],
    ids=["conv", "groups", "transposed", "einsum", "attention", "elementwise", "loop", "condition", "calls"],
)
def test_multiply_adds(f, flop):
    assert sum(found.flop for found in receptive_field.walk(traced(f), [receptive_field.image_field(IMAGE)])[0]) == flop


def test_a_condition_on_the_image_depends_on_it():
    assert receptive_field.sizes(field(lambda x: lax.cond(x.sum() > 0, lambda x: x, lambda x: 2 * x, x)), IMAGE) == SIZE
