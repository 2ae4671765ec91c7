"""SSD and Faster R-CNN with torchvision's weights predict what theirs predict, and write the same weights."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import BatchNorm
from jaxcnn.models import DETECTORS, ResNet
from jaxcnn.weights import by_path, layout, state_dicts
from jaxcnn.weights.tables import TABLES, current
from jaxcnn.weights.tables.core import names
from tests.fixtures import pseudo
from tests.weights.test_weights import apply, difference

HERE = pathlib.Path(__file__).parents[1] / "fixtures"
GOLDEN = json.loads((HERE / "anchored.json").read_text())
CLASSES, FASTER, SSD = 3, "fasterrcnn_resnet50_fpn", "ssd300_vgg16"
CPU = {"xla_backend_optimization_level": 0}
NORM = functools.partial(BatchNorm, frozen=True, epsilon=0.0)
BODIES = {"small": ResNet(1000, (1, 1, 1, 1), norm=NORM), "resnet50": "resnet50"}


def described(name, size, **options):
    """Names and shapes of a state dict."""
    table = TABLES[name]["torchvision"]
    like = by_path.shapes(DETECTORS[name](CLASSES, **options), (*size, 3))
    called = names(table, None, like)
    return {there: layout.their_shape(like[path].shape, path, there, table) for path, there in called.items()}


def state_dict(name, size, **options):
    return {there: pseudo.tensor(there, shape) for there, shape in described(name, size, **options).items()}


def check_way_back(name, state, variables, **options):
    back = state_dicts.to_state_dict(name, variables, num_classes=CLASSES, **options)
    assert {there for there in back if state_dicts.COUNTER not in there} == state.keys()
    for there, tensor in state.items():
        np.testing.assert_array_equal(back[there], tensor, there)


@pytest.mark.parametrize("body", ["small", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_both_stages_of_faster_rcnn_and_the_way_back(body):
    golden = GOLDEN[body]
    state = state_dict(FASTER, golden["size"], backbone=BODIES[body])
    assert pseudo.digest({there: x.shape for there, x in state.items()}) == golden["tensors"]
    options = {"backbone": BODIES[body], "proposals": 8, "candidates": 8}
    model, variables, source = state_dicts.from_state_dict(FASTER, state, image=golden["size"], **options)
    assert source == "torchvision" and model.num_classes == CLASSES
    boxes = jnp.array([GOLDEN["proposals"], GOLDEN["proposals"][::-1]])

    def both(module, x):
        features = module.features(x)
        levels, image = {i: features[f"p{i}"] for i in range(2, 7)}, x.shape[1:3]
        return module.rpn(levels, image), module.classify({i: levels[i] for i in range(2, 6)}, image, boxes)

    first, second = apply(model, variables, pseudo.images(*golden["size"]), method=both)
    joined = np.concatenate([first["objectness"][..., None], first["offsets"]], -1)
    assert difference(joined.reshape(-1)[:: golden["every"]], golden["first"]) < 1e-4
    joined = np.concatenate([second["logits"], second["deltas"].reshape(2, len(boxes[0]), -1)], -1)
    assert difference(joined.reshape(-1), golden["second"]) < 1e-4
    check_way_back(FASTER, state, variables, backbone=BODIES[body])


@pytest.mark.slow
def test_heads_of_ssd_and_the_way_back():
    golden = GOLDEN[SSD]
    state = state_dict(SSD, (300, 300))
    model, variables, source = state_dicts.from_state_dict(SSD, state)
    assert source == "torchvision" and model.num_classes == CLASSES
    out = apply(model, variables, pseudo.images(300, 300, count=1))
    joined = np.concatenate([out["logits"], out["deltas"]], -1)
    assert difference(joined.reshape(-1)[:: golden["every"]], golden["outputs"]) < 1e-4
    check_way_back(SSD, state, variables)


def test_names_and_shapes_of_ssd():
    assert pseudo.digest(described(SSD, (300, 300))) == GOLDEN[SSD]["tensors"]


@pytest.mark.slow
def test_a_thin_ssd_reads_what_it_wrote_and_keeps_its_boxes_for_other_classes():
    options = {"width": 0.03}
    model = DETECTORS[SSD](CLASSES, **options)
    drawn = jax.jit(lambda key: model.init(key, jnp.zeros((1, 300, 300, 3))), compiler_options=CPU)(jax.random.key(0))
    drawn = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype(np.float32), drawn)
    state = state_dicts.to_state_dict(SSD, drawn, num_classes=CLASSES, **options)
    model, variables, _ = state_dicts.from_state_dict(SSD, state, **options)
    jax.tree.map(np.testing.assert_array_equal, variables, drawn)
    model, variables, _ = state_dicts.from_state_dict(SSD, state, num_classes=1, **options)
    params, before = variables["params"], drawn["params"]
    assert model.num_classes == 1 and params["logits_0"]["bias"].shape == (4 * 2,)
    assert not np.any(params["logits_1"]["bias"])
    jax.tree.map(np.testing.assert_array_equal, params["deltas_0"], before["deltas_0"])
    kernel, bias = state["head.regression_head.module_list.2.weight"], state["head.regression_head.module_list.2.bias"]
    np.testing.assert_array_equal(before["deltas_2"]["bias"][:4], bias[[1, 0, 3, 2]])  # dx, dy, dw, dh there
    np.testing.assert_array_equal(before["deltas_2"]["kernel"][0, 0, :, 4], kernel[5, :, 0, 0])


def test_names_and_layout_of_the_published_faster_rcnn():
    """It was written before the convolutions of the pyramid and of the first stage became blocks."""
    thin = {"backbone": BODIES["small"], "width": 16, "hidden": 8}
    state = state_dict(FASTER, (64, 64), **thin)
    old = {there.replace("blocks.0.0.", "blocks.0.").replace("conv.0.0.", "conv."): x for there, x in state.items()}
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.weight"} < old.keys()
    assert len(old.keys() - state.keys()) == 6
    assert {current(TABLES[FASTER]["torchvision"], there) for there in old} == state.keys()
    model, variables, _ = state_dicts.from_state_dict(FASTER, old, image=(64, 64), **thin)
    there = old["roi_heads.box_predictor.bbox_pred.bias"]
    np.testing.assert_array_equal(variables["params"]["deltas"]["bias"][4:8], there[[5, 4, 7, 6]])


@pytest.mark.slow
def test_faster_rcnn_for_other_classes_keeps_its_first_stage():
    thin = {"backbone": "resnet18", "width": 16, "hidden": 8}
    state = state_dict(FASTER, (64, 64), **thin)
    model, variables, _ = state_dicts.from_state_dict(FASTER, state, num_classes=5, image=(64, 64), **thin)
    params = variables["params"]
    assert model.num_classes == 5
    assert (params["logits"]["bias"].shape, params["deltas"]["kernel"].shape) == ((6,), (8, 24))
    np.testing.assert_array_equal(params["rpn"]["logits"]["bias"], state["rpn.head.cls_logits.bias"])
    np.testing.assert_array_equal(params["rpn"]["deltas"]["bias"][:4], state["rpn.head.bbox_pred.bias"][[1, 0, 3, 2]])
