"""Programs for a GPU or a TPU are checked without one: lowered training steps, and collectives of eight devices."""

import collections
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.ops import native_lowering
from jaxcnn.parallel.compile import IndexedChunk

SIDE, BATCH, ROWS = 64, 16, 100
TENSOR = r"tensor<([^>]*)>"


def described(batch_size=BATCH):
    """A chunk of rows that live on the device, by shapes alone."""
    image = jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 3), jnp.uint8)
    label = jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    index = jax.ShapeDtypeStruct((2, batch_size), jnp.int32)
    return IndexedChunk({"image": image, "label": label}, index, None, jax.ShapeDtypeStruct((), jnp.int32))


def training(make=jc.models.resnet50, dtype="bfloat16", wrap=lambda step: step, loss=lambda loss: loss):
    """A training step of a residual network and the shapes of its state."""
    task = jc.tasks.classification(make(num_classes=10, dtype=dtype), mean=(0.5,) * 3, std=(0.2,) * 3)
    task = task._replace(loss=loss(task.loss))
    tx = jc.optim.sgd(jc.optim.constant(0.1))
    row = {"image": np.zeros((1, SIDE, SIDE, 3), np.uint8), "label": np.zeros(1, np.int32)}
    return wrap(jc.make_train_step(task, tx)), jax.eval_shape(lambda: jc.init_state(task, tx, row))


def lowered(platform, donate=True, chunk=None, **options):
    """The text of the whole loop of a dispatch, for a platform that is not here."""
    step, state = training(**options)
    run = jc.compile_step(step, "jit", donate=donate)
    program = run.call.trace(state, chunk or described()).lower(lowering_platforms=(platform,))
    return program.as_text(), len(jax.tree.leaves(state)), sum(x.ndim == 4 for x in jax.tree.leaves(state.params))


def shapes(line):
    """Types of what goes into an operation and of what comes out: `["16x8x8x64xbf16", ...]`."""
    return re.findall(TENSOR, line.rpartition(" : ")[2])


def axes(tensor):
    return tensor.count("x")


def check_convolutions(text, leaves, layers):
    """Each layer forward, to its kernel, and to its image but for the first: all in bfloat16."""
    found = [shapes(line) for line in text.splitlines() if "stablehlo.convolution(" in line]
    assert len(found) == 3 * layers - 1, len(found)
    assert {t.rpartition("x")[2] for types in found for t in types} == {"bf16"}


def check_sums(text, leaves, layers):
    """Sums over whole activations are float32."""
    found = [shapes(line)[0] for line in text.splitlines() if "stablehlo.reduce(" in line and " : (" in line]
    wide = [t for t in found if axes(t) == 4]
    assert wide and {t.rpartition("x")[2] for t in wide} <= {"f32", "i1"}, collections.Counter(wide)


def check_layout(text, leaves, layers):
    """No activation is transposed."""
    lines = [line for line in text.splitlines() if "stablehlo.transpose" in line]
    assert not [types for types in map(shapes, lines) if axes(types[0]) >= 4]


def check_host(text, leaves, layers):
    """Nothing calls the host."""
    calls = set(re.findall(r"custom_call @(\w+)", text))
    assert not {name for name in calls if "callback" in name or "host" in name.lower()}, calls
    assert "stablehlo.send" not in text and "stablehlo.outfeed" not in text


def check_donation(text, leaves, layers):
    """Each array of the state is written where it was read."""
    head = text[text.index("func.func public @main") :].split("\n", 1)[0]
    assert len(re.findall(r"tf\.aliasing_output|jax\.buffer_donor", head)) == leaves


def check_gathers(text, leaves, layers):
    """Of arrays with pixels whole rows are picked, and as bytes."""
    found = 0
    for line in text.splitlines():
        if "stablehlo.gather" not in line:
            continue
        size = [int(n) for n in re.search(r"slice_sizes = array<i64: ([\d, ]+)>", line)[1].split(",")]
        *dims, kind = shapes(line)[0].split("x")
        if len(dims) >= 4:
            found += 1
            assert size == [1, *map(int, dims[1:])] and kind == "ui8"
    assert found == 1


CHECKS = {  # each of the program, the number of arrays in the state, and the number of convolutional layers
    "convolutions": check_convolutions,
    "sums": check_sums,
    "layout": check_layout,
    "host": check_host,
    "donation": check_donation,
    "gathers": check_gathers,
}


@pytest.mark.parametrize("platform", ["cuda", pytest.param("tpu", marks=pytest.mark.slow)])
def test_the_program_of_a_training_step_of_resnet50(platform):
    program = lowered(platform)
    for check in CHECKS.values():
        check(*program)


def upside_down(step):
    """Work with channels first."""

    def wrapped(state, batch):
        image = batch["image"].astype(jnp.float32) / 255
        image = jnp.moveaxis(jnp.sin(jnp.moveaxis(image, -1, 1)), 1, -1)
        return step(state, {**batch, "image": image})

    return wrapped


def talking(step):
    """Tell the host about each batch."""

    def wrapped(state, batch):
        jax.debug.callback(lambda x: None, batch["label"])
        return step(state, batch)

    return wrapped


def narrow(loss):
    """Add up activations in 16 bits."""

    def changed(params, model_state, batch, key):
        total, rest = loss(params, model_state, batch, key)
        low = batch["image"].astype(jnp.bfloat16) * params["stem"]["conv"]["kernel"].mean().astype(jnp.bfloat16)
        extra = jax.lax.reduce(low, jnp.bfloat16(0), jax.lax.add, (0, 1, 2, 3))
        return total._replace(total=total.total + extra.astype(jnp.float32)), rest

    return changed


def floats():
    chunk = described()
    return chunk._replace(arrays=chunk.arrays | {"image": jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 3), jnp.float32)})


MISTAKES = {
    "convolutions": {"dtype": None},
    "sums": {"loss": narrow},
    "layout": {"wrap": upside_down},
    "host": {"wrap": talking, "platform": "cpu"},  # no program for another platform can be lowered with it
    "donation": {"donate": False},
    "gathers": {"chunk": floats()},
}


@pytest.mark.parametrize("check", CHECKS)
def test_each_check_finds_its_mistake(check):
    short = functools.partial(jc.models.ResNet, blocks=(1, 1), bottleneck=True, width=8)
    CHECKS[check](*lowered("cuda", make=short))
    with pytest.raises(AssertionError):
        CHECKS[check](*lowered(**{"platform": "cuda", "make": short} | MISTAKES[check]))


def mirrored(step):
    """Swap rows that lie on different devices."""
    return lambda state, batch: step(state, {**batch, "image": batch["image"][::-1]})


def collectives(wrap=lambda step: step):
    """Collectives of a residual network's training step on eight devices, as an accelerator would have them.

    Returns:
        `(kind, where it comes from)` of each, in the order of the program, and the number of norms.

    """
    model = jc.models.ResNet(num_classes=10, blocks=(1, 1), cifar_stem=True, width=8)
    task = jc.tasks.classification(model, mean=0.5, std=0.2)
    tx = jc.optim.sgd(jc.optim.constant(0.1))
    data = jc.data.Resident({"image": np.zeros((32, 16, 16, 3), np.uint8), "label": np.zeros(32, np.int32)})
    state = jc.init_state(task, tx, data.example())
    run = jc.compile_step(wrap(jc.make_train_step(task, tx)), "sharded", devices=8)
    chunk = run.shard(data.put(run.replicate).chunk(16, 0, 2, 2, run.parts))
    with native_lowering():
        text = jax.jit(lambda state, chunk: run.call(state, chunk)).lower(run.put(state), chunk).compile().as_text()
    norms = sum(path.endswith("norm.scale") for path, _ in jc.core.types.named(state.params))
    kinds = re.compile(" (all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all)(?:-start)?\\(")
    lines = [(kinds.search(line), re.search(r'op_name="([^"]*)"', line)) for line in text.splitlines()]
    return [(kind[1], source[1]) for kind, source in lines if kind], norms


def check_collectives(found, norms):
    """Each norm is summed twice forward (mean, then variance) and once backward; the gradients, last, in two sums.

    One more sum adds up the metrics, and one tells whether any label is out of range.
    """
    assert {kind for kind, _ in found} == {"all-reduce"}
    sources = [source for _, source in found]
    forward = [s for s in sources if "/norm/" in s and "transpose(" not in s]
    backward = [s for s in sources if "transpose(" in s]
    assert len(forward) <= 2 * norms and len(backward) <= norms + 1, sources
    assert len(found) == len(forward) + len(backward) + 2 <= 3 * norms + 3, sources
    gradients = [i for i, s in enumerate(sources) if "conv_general_dilated" in s]
    assert len(gradients) <= 2 and gradients[-1] == len(sources) - 1, sources


def test_collectives_of_eight_devices():
    check_collectives(*collectives())


def test_a_row_that_moves_between_devices_is_found():
    with pytest.raises(AssertionError):
        check_collectives(*collectives(mirrored))
