"""Every kind of network: forward mode, second derivatives, checked shard_map, and export with a symbolic batch."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxcnn import ops
from jaxcnn.models import MODELS
from tests.models.test_models import SIDES, SIZE, ZOO
from tests.ops.test_ops import QUICK

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHORT = ("lenet5", "plain", "vit_tiny_patch16_224")  # the others are slow
# without kinks, so that a step may be large; parts of them compute in float32
SMOOTH = ("cct", "convnext", "vit")
# whose first parameters lie on a kink, with channels that are zero everywhere: ReLU at 0, pooling of equal values
KINKED = ("mobilenet_v1", "speednet")
# the networks that the zoo's tests do not hold, or hold with fewer blocks: all blocks, with few channels and pixels
THIN = {
    "cct": {"width": 32},
    "convnext": {"widths": (8, 16, 24, 32), "layer_scale": 1.0},
    "densenet": {"growth": 8, "width": 16},
    "mobilenet": {"width": 0.25},
    **dict.fromkeys(("cbam_resnet", "resnet", "seresnet", "wide_resnet"), {"width": 8}),
    "vgg": {"width": 0.05},
    "vit": {"width": 24},
}
# compiling the forward mode of their gradients takes more than 10 GB: these run operation by operation
HEAVY = ("whole_densenet169", "whole_efficientnet_b1", "whole_efficientnet_b2", "whole_efficientnet_b3")
FEWER = ("convnext_tiny", "densenet121", "googlenet", "plain", "squeezenet1_1")
WHOLE = {
    f"whole_{name}": functools.partial(make, **next((few for start, few in THIN.items() if name.startswith(start)), {}))
    for name, make in MODELS.items()
    if name not in ZOO or name in FEWER
}
EVERY = ZOO | WHOLE
each = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in EVERY]
)


def sized(name):
    """A network, and a side of images that it can take."""
    side = SIDES.get(name, SIZE)
    if name in WHOLE:
        side = {"whole_cct_7_3x1_32": 32, "whole_inception_v3": 96, "whole_plain": SIZE}.get(name, 64)
    return EVERY[name](10), side


def problem(name, dtype, rows=4):
    """Loss of parameters and a batch, in training, and the two."""
    model, side = sized(name)
    image = jax.random.uniform(jax.random.key(1), (rows, side, side, 1), jnp.float32)
    variables = jax.jit(functools.partial(model.init, train=False), compiler_options=QUICK)(
        jax.random.key(0), image[:1]
    )
    state, image = jax.tree.map(lambda v: v.astype(dtype), dict(variables)), image.astype(dtype)
    params = state.pop("params")

    def loss(params, image):
        rngs = {"dropout": jax.random.key(3)}
        out, _ = model.apply({"params": params, **state}, image, train=True, rngs=rngs, mutable=["batch_stats"])
        return -jax.nn.log_softmax(out["logits"] if isinstance(out, dict) else out)[:, 3].sum()

    return loss, params, image


def direction(params, seed=2):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [jax.random.normal(k, v.shape, v.dtype) * 0.1 for k, v in zip(keys, leaves, strict=True)]
    )


@each
def test_forward_mode_and_hessian_vector_products(name):
    with jax.enable_x64(True):
        loss, params, image = problem(name, jnp.float64)
        smooth = name.removeprefix("whole_").startswith(SMOOTH)
        # between kinks, which lie closer the more units there are, one of three steps is right
        along, steps = direction(params), (1e-3,) if smooth else (1e-7,) if name in ZOO else (1e-7, 1e-8, 1e-9)
        if name in KINKED or name in WHOLE and not smooth:
            params = jax.tree.map(lambda p, d: p + 0.3 * d, params, direction(params, 7))

        def forward(params):
            return jax.jvp(lambda p: jax.value_and_grad(loss)(p, image), (params,), (along,))[1]

        compiled = (lambda f: f) if name in HEAVY else functools.partial(jax.jit, compiler_options=QUICK)
        at = jax.jit(lambda t: loss(jax.tree.map(lambda p, d: p + t * d, params, along), image), compiler_options=QUICK)
        slope, own = compiled(forward)(params)
        differences = [float(at(step) - at(-step)) / (2 * step) for step in steps]
        with ops.native_lowering():
            native = compiled(forward)(params)[1]
    np.testing.assert_allclose(slope, min(differences, key=lambda d: abs(d - float(slope))), rtol=1e-3)
    jax.clear_caches()  # programs of whole networks take gigabytes
    scale = max(np.abs(v).max() for v in map(np.asarray, jax.tree.leaves(native)))
    for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(native), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6 * scale)


@each
def test_devices_with_their_checks(name):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    with jax.enable_x64(True):  # norms over few places make rounding large
        loss, params, image = problem(name, jnp.float64)
        spread_out = jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
        try:
            one, two = (jax.jit(f, compiler_options=QUICK)(params, image) for f in (jax.grad(loss), spread_out))
        except ValueError as error:
            if "Primitive polynomial requires" not in str(error):
                raise
            pytest.skip("JAX 0.12 cannot check its own exact GELU in float64")
        scale = max(np.abs(v).max() for v in map(np.asarray, jax.tree.leaves(one)))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5 * scale)


LOAD = """
import json, sys
import numpy as np
import jax
from jax import export
found = {}
for name in sys.argv[2:]:
    program = export.deserialize(bytearray(open(f"{sys.argv[1]}/{name}", "rb").read()))
    with np.load(f"{sys.argv[1]}/{name}.npz") as held:
        given = [held[f"v{i}"] for i in range(len(held.files) - 2)]
        far = np.abs(program.call(*given, held["image"]) - held["logits"]).max()
        found[name] = [list(program.platforms), float(far / max(np.abs(held["logits"]).max(), 1))]
assert "flax" not in sys.modules and "jaxcnn" not in sys.modules
print(json.dumps(found))
"""


def check_export(folder, names):
    """Export with a symbolic batch for three platforms, and run in a process that has JAX alone."""
    for name, (model, side, channels) in names.items():
        image = jax.random.uniform(jax.random.key(1), (3, side, side, channels))
        variables = jax.jit(functools.partial(model.init, train=False), compiler_options=QUICK)(
            jax.random.key(0), image[:1]
        )
        leaves, tree = jax.tree.flatten(variables)
        predict = jax.jit(
            lambda *given, model=model, tree=tree: model.apply(
                jax.tree.unflatten(tree, given[:-1]), given[-1], train=False
            )
        )
        shape = (*export.symbolic_shape("b"), side, side, channels)
        exported = export.export(predict, platforms=("cpu", "cuda", "tpu"))(
            *leaves, jax.ShapeDtypeStruct(shape, jnp.float32)
        )
        (folder / name).write_bytes(exported.serialize())
        np.savez(
            folder / f"{name}.npz",
            image=image,
            logits=predict(*leaves, image),
            **{f"v{i}": v for i, v in enumerate(leaves)},
        )
    env = {**os.environ, "PYTHONPATH": ""}
    out = subprocess.run(
        [sys.executable, "-c", LOAD, folder, *names], env=env, capture_output=True, text=True, cwd=folder
    )
    assert out.returncode == 0, out.stderr
    for name, (platforms, difference) in json.loads(out.stdout).items():
        assert platforms == ["cpu", "cuda", "tpu"] and difference < 1e-3, name


def test_export_with_a_symbolic_batch(tmp_path):
    check_export(tmp_path, {name: (*sized(name), 1) for name in (*SHORT[:2], "speednet")})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EVERY if name not in (*SHORT[:2], "speednet")])
def test_export_of_other_kinds(name, tmp_path):
    check_export(tmp_path, {name: (*sized(name), 1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_the_zoo_exports_with_a_symbolic_batch(name):
    model = MODELS[name](num_classes=10)
    shape = model.default_image
    variables = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((2, *shape)))
    rows = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *shape), jnp.float32)
    predict = jax.jit(functools.partial(model.apply, train=False))
    exported = export.export(predict, platforms=("cpu", "cuda", "tpu"))(variables, rows)
    assert exported.out_avals[0].shape[1:] == (10,) and str(exported.out_avals[0].shape[0]) == "b"


def test_a_network_of_any_height_and_width():
    model = MODELS["resnet20"](num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=False)
    shape = export.symbolic_shape("b, h, w, 3", constraints=["h >= 32", "w >= 32"])
    predict = jax.jit(functools.partial(model.apply, train=False))
    exported = export.export(predict)(variables, jax.ShapeDtypeStruct(shape, jnp.float32))
    x = jax.random.uniform(jax.random.key(1), (2, 37, 44, 3))
    chex.assert_trees_all_close(exported.call(variables, x), predict(variables, x), rtol=1e-3, atol=1e-4)
