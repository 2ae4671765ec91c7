"""Detectors with torchvision's weights predict what theirs predict, and write the same weights."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import DETECTORS, ResNet
from jaxcnn.weights import by_path, layout, state_dicts
from jaxcnn.weights.tables import TABLES
from jaxcnn.weights.tables.core import names
from tests.fixtures import pseudo
from tests.weights.test_weights import apply, difference

HERE = pathlib.Path(__file__).parents[1] / "fixtures"
GOLDEN = json.loads((HERE / "detectors.json").read_text())
CLASSES, NAME = 3, "fcos_resnet50_fpn"
BODIES = {"small": ResNet(1000, (1, 1, 1, 1)), "resnet50": "resnet50"}


def state_dict(size, **options):
    model, table = DETECTORS[NAME](CLASSES, **options), TABLES[NAME]["torchvision"]
    like = by_path.shapes(model, (*size, 3))
    called = names(table, model, like)
    shapes = {there: layout.their_shape(like[path].shape, path, there, table) for path, there in called.items()}
    counters = [there.replace("running_mean", state_dicts.COUNTER) for there in shapes if "running_mean" in there]
    return {there: pseudo.tensor(there, shape) for there, shape in (shapes | dict.fromkeys(counters, ())).items()}


@pytest.mark.parametrize("body", ["small", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_heads_of_the_published_file_and_the_way_back(body):
    """It was written before the convolutions of pyramids became blocks, and by a network with frozen norms."""
    golden = GOLDEN[f"torchvision {NAME} {body}"]
    state = state_dict(golden["size"], backbone=BODIES[body])
    assert pseudo.digest({there: x.shape for there, x in state.items()}) == golden["tensors"]
    former = re.compile(r"(inner|layer)_blocks\.(\d)\.0\.")
    old = {former.sub(r"\1_blocks.\2.", there): x for there, x in state.items() if "num_batches" not in there}
    assert "backbone.fpn.inner_blocks.2.weight" in old and len(old.keys() - state.keys()) == 12
    model, variables, source = state_dicts.from_state_dict(NAME, old, image=golden["size"], backbone=BODIES[body])
    assert source == "torchvision" and model.num_classes == CLASSES
    levels = apply(model, variables, pseudo.images(*golden["size"]))
    parts = [[x[name] for name in ("logits", "distances")] + [x["centerness"][..., None]] for x in levels.values()]
    places = np.concatenate([np.concatenate(part, -1).reshape(2, -1, CLASSES + 5) for part in parts], 1)
    assert difference(places.reshape(-1)[:: golden["every"]], golden["outputs"]) < 1e-4
    there, here = old["head.regression_head.bbox_reg.bias"], variables["params"]["distances"]["bias"]
    np.testing.assert_array_equal(here, there[[1, 0, 3, 2]])  # left, top, right, bottom there
    back = state_dicts.to_state_dict(NAME, variables, num_classes=CLASSES, backbone=BODIES[body])
    assert back.keys() == state.keys()
    for there, tensor in state.items():
        np.testing.assert_array_equal(back[there], tensor, there)


def test_every_detector_of_a_table_has_the_number_of_parameters_of_torchvision():
    model = DETECTORS[NAME]()
    like = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)), train=False)["params"], jax.random.key(0)
    )
    norms = [x.size for path, x in by_path.flat(like["backbone"]).items() if ".norm." in path]
    assert sum(x.size for x in jax.tree.leaves(like)) - sum(norms) == 32_269_600  # theirs are frozen


@pytest.mark.parametrize("options", [{"norm": "batch"}, {"width": 64}])
def test_other_forms_keep_our_own_names(options):
    model = DETECTORS[NAME](3, **{"backbone": BODIES["small"]} | options)
    assert list(state_dicts.sources(NAME, model, by_path.shapes(model, (64, 64, 3)))) == ["jaxcnn"]
