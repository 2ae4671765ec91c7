"""FCN and DeepLab-v3 give torchvision's logits from its weights, and take the weights of classifiers."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxcnn as jc
from jaxcnn.models import NETWORKS, SEGMENTERS, ResNet
from jaxcnn.models.deeplab import DeepLabV3
from jaxcnn.models.fcn import FCN
from jaxcnn.weights import by_path, layout, state_dicts
from jaxcnn.weights.tables import TABLES
from jaxcnn.weights.tables.core import names
from tests.fixtures import pseudo

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "fixtures" / "dense_logits.json").read_text())
GOLDEN.pop("versions")
CLASSES, SIZE, EVERY = 5, (97, 89), 24
KINDS = {"small fcn": (FCN, "fcn_resnet50"), "small deeplabv3": (DeepLabV3, "deeplabv3_resnet50")}
KEYS = list(GOLDEN)


def made(key):
    """The network of a golden entry, and torchvision's table of its names."""
    if key not in KINDS:
        return NETWORKS[key](CLASSES, aux=True), TABLES[key]["torchvision"]
    kind, name = KINDS[key]
    encoder = ResNet(10, (1, 1, 2, 2), True, replace_stride_with_dilation=(False, True, True))
    return kind(CLASSES, encoder, aux=True), TABLES[name]["torchvision"]


def read(model, table):
    """The state dict that torchvision's network had, and our variables from it."""
    like = by_path.shapes(model, (*SIZE, 3))
    called = names(table, model, like)
    shapes = {there: layout.their_shape(like[path].shape, path, there, table) for path, there in called.items()}
    state = {there: pseudo.tensor(there, shape) for there, shape in shapes.items()}
    values = {
        path: layout.to_ours(state[there], path, there, like[path].shape, table) for path, there in called.items()
    }
    counters = [there.replace("running_mean", state_dicts.COUNTER) for there in state if "running_mean" in there]
    return state | dict.fromkeys(counters, np.zeros((), np.int64)), by_path.filled(model, (*SIZE, 3), like, values)


@pytest.mark.parametrize("key", KEYS)
def test_logits_equal_those_of_torchvision(key):
    golden = GOLDEN[key]
    model, table = made(key)
    state, variables = read(model, table)
    assert pseudo.digest({there: x.shape for there, x in state.items()}) == golden["tensors"]
    counted = [x.size for path, x in by_path.flat(variables["params"]).items() if not path.startswith("extra_")]
    assert sum(counted) == golden["parameters"]
    run = jax.jit(
        lambda v, x: model.apply(v, x, method="with_auxiliary"),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    logits, (extra,) = run(variables, pseudo.images(*SIZE))
    for found, wanted in ((logits, golden["out"]), (extra, golden["aux"])):
        assert found.shape == (2, *SIZE, CLASSES)
        gap = np.abs(np.asarray(found)[:, ::EVERY, ::EVERY] - np.asarray(wanted)).max()
        assert gap < 1e-4 * np.abs(wanted).max()


def test_every_table_is_compared():
    assert {name for name in TABLES if name in SEGMENTERS} == GOLDEN.keys() - KINDS.keys()


def test_weights_are_read_with_and_without_the_auxiliary_head():
    model = NETWORKS["fcn_resnet50"](CLASSES, aux=True)
    state, _ = read(model, TABLES["fcn_resnet50"]["torchvision"])
    found, variables, source = state_dicts.from_state_dict("fcn_resnet50", state, image=SIZE)
    assert source == "torchvision" and found.num_classes == CLASSES and "extra_0" not in variables["params"]
    back = state_dicts.to_state_dict("fcn_resnet50", variables)
    assert back.keys() == {key for key in state if not key.startswith("aux_classifier")}
    assert all(np.array_equal(back[key], state[key]) for key in back)
    _, other, _ = state_dicts.from_state_dict("fcn_resnet50", state, image=SIZE, aux=True)
    np.testing.assert_array_equal(
        other["params"]["extra_0"]["decoder"]["hidden"]["conv"]["kernel"],
        state["aux_classifier.0.weight"].transpose(2, 3, 1, 0),
    )


def test_a_network_with_more_branches_is_not_torchvisions():
    model = NETWORKS["deeplabv3_resnet50"](3, rates=(1, 2, 3, 4))
    assert list(state_dicts.sources("deeplabv3_resnet50", model, by_path.shapes(model, (64, 64, 3)))) == ["jaxcnn"]


def test_a_classifier_of_the_encoder_is_a_start(tmp_path):
    classifier = jc.models.resnet18(4, width=8)
    like = by_path.shapes(classifier, (32, 32, 3))
    trained = by_path.filled(
        classifier, (32, 32, 3), like, {path: pseudo.tensor(path, x.shape) for path, x in like.items()}
    )
    trained["batch_stats"] = jax.tree.map(jnp.abs, trained["batch_stats"])
    state = state_dicts.to_state_dict("resnet18", trained, width=8)
    save_file(state, tmp_path / "resnet18.safetensors")
    dilated = {"width": 8, "replace_stride_with_dilation": (False, True, True)}
    loaded = jc.load_weights("resnet18", tmp_path / "resnet18.safetensors", **dilated)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, dict(trained))
    model = jc.models.fcn(3, encoder=loaded.model, aux=True)
    fresh = jax.eval_shape(lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0))
    fresh = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), fresh)
    given = {part: {"encoder": tree} for part, tree in loaded.variables.items()}
    begun = jc.transfer.load_pretrained(fresh, given, head=(r"(.*\.)?logits", "decoder", "extra_0"))
    taken = {**trained["params"]}
    taken.pop("logits")
    jax.tree.map(np.testing.assert_array_equal, begun["params"]["encoder"], taken)
    assert not begun["params"]["decoder"]["hidden"]["conv"]["kernel"].any()


def test_a_u_net_is_saved_and_read(tmp_path):
    path, options = tmp_path / "unet.safetensors", {"widths": (4, 8), "num_classes": 3}
    model = jc.models.unet(**options)
    like = by_path.shapes(model, (16, 16, 1))
    values = {name: np.abs(pseudo.tensor(name, x.shape)) for name, x in like.items()}
    jc.save_weights(path, "unet", by_path.filled(model, (16, 16, 1), like, values), image=(16, 16, 1), **options)
    loaded = jc.load_weights("unet", path)
    assert loaded.source == "jaxcnn" and loaded.model.widths == [4, 8] and loaded.model.num_classes == 3
    for name, x in by_path.flat(loaded.variables).items():
        np.testing.assert_array_equal(x, values[name])
    with pytest.raises(jc.InputError, match="UNet with 3 spatial axes: only weights for two are read"):
        jc.load_weights("unet", path, dims=3)
