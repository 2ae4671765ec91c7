"""Weights of torchvision and timm give the same logits here, survive the way there and back; bad files are named."""

import json
import os
import pathlib
import pickle
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.models import MODELS, NETWORKS, resnet
from jaxcnn.tasks.model import prepare
from jaxcnn.weights import by_path, checks, layout, state_dicts, tensors
from jaxcnn.weights import load as weights
from jaxcnn.weights.preprocessing import HALF, Preprocessing, from_timm
from jaxcnn.weights.tables import TABLES, current
from jaxcnn.weights.tables.core import PLACEHOLDER, Block, Source, names
from tests.fixtures import pseudo

HERE = pathlib.Path(__file__).parents[1] / "fixtures"
GOLDEN = json.loads((HERE / "logits.json").read_text())
VERSIONS = GOLDEN.pop("versions")
QUICK = [
    "timm seresnet18", "timm vit_tiny_patch16_224", "torchvision resnet18", "torchvision squeezenet1_1",
]  # fmt: skip
KEYS = [key if key in QUICK else pytest.param(key, marks=pytest.mark.slow) for key in GOLDEN]
CLASSES = 10


def state_dict(name, source, size, **options):
    """The weights that the libraries' networks had when the logits were made."""
    model = MODELS[name](CLASSES, **options)
    like = by_path.shapes(model, (*size, 3))
    table = TABLES[name][source]
    called = names(table, model, like)
    shapes = {there: layout.their_shape(like[path].shape, path, there, table) for path, there in called.items()}
    if source == "timm" and name.startswith("vgg"):  # there the dense layers are convolutions
        for layer, side in (("pre_logits.fc1", 7), ("pre_logits.fc2", 1)):
            wide, narrow = shapes[f"{layer}.weight"]
            shapes[f"{layer}.weight"] = (wide, narrow // side**2, side, side)
    counters = [
        there.replace("running_mean", state_dicts.COUNTER) for there in shapes if there.endswith("running_mean")
    ]
    return {there: pseudo.tensor(there, shape) for there, shape in (shapes | dict.fromkeys(counters, ())).items()}


def initial(model, shape):
    quick = jax.jit(
        lambda key: model.init(key, jnp.zeros((1, *shape))), compiler_options={"xla_backend_optimization_level": 0}
    )
    return quick(jax.random.key(0))


def apply(model, variables, x, **options):
    compiled = jax.jit(
        lambda v, x: model.apply(v, x, **options), compiler_options={"xla_backend_optimization_level": 0}
    )
    return jax.device_get(compiled(variables, x))


def difference(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(b).max()


@pytest.mark.parametrize("key", KEYS)
def test_logits_and_the_way_back(key):
    (source, name), golden = key.split(), GOLDEN[key]
    options = {"aux": True} if "auxiliary" in golden else {}
    state = state_dict(name, source, golden["size"], **options)
    assert pseudo.digest({there: x.shape for there, x in state.items()}) == golden["tensors"]
    model, variables, found = weights.from_state_dict(name, state, image=golden["size"], **options)
    called = state_dicts.sources(name, model, by_path.flat(variables))
    assert called[found] == called[source]
    assert model.num_classes == CLASSES
    counted = [x.size for path, x in by_path.flat(variables["params"]).items() if not path.startswith("extra_")]
    assert sum(counted) == golden["parameters"]
    first = next(iter(called))
    x = pseudo.images(*golden["size"])
    if options:
        logits, extra = apply(model, variables, x, method="with_auxiliary")
        assert max(map(difference, extra, golden["auxiliary"])) < 1e-4
    else:
        logits = apply(model, variables, x)
    assert difference(logits, golden["logits"]) < 1e-4
    if first in (found, source):
        back = weights.to_state_dict(name, variables, **options)
        assert back.keys() == state.keys()
        for there, tensor in state.items():
            assert back[there].dtype == tensor.dtype and np.array_equal(back[there], tensor), there


def test_every_table_is_compared():
    called = {f"{source} {name}" for name, tables in TABLES.items() if name in MODELS for source in tables}
    assert called == GOLDEN.keys()
    assert TABLES.keys() <= NETWORKS.keys()


def test_placeholders_are_numbers_and_words():
    table = Source(
        {"stem.{unit}.conv": "{unit}.conv"},
        [Block("stages_0_{j}", "{j+1}", {"dense": "a"}), Block("stages_{i}_{j}", "{2i+1}.{j-1}", {"conv{k}": "c{k}"})],
    )
    paths = ["params.stem.a_1.conv.kernel", "batch_stats.stages_0_2.dense.mean", "params.stages_12_3.conv2.bias"]
    assert list(names(table, None, paths).values()) == ["a_1.conv.weight", "3.a.running_mean", "25.2.c2.bias"]
    assert names(table, None, ["params.stages_1_1.dense.bias"]) is None  # the second kind of block has no such part
    assert names(table, None, ["params.stages_1_x.conv1.bias"]) is None
    assert PLACEHOLDER.sub("", "{2i+1}{unit}{j-1}{}") == "{}"


OTHER_FORMS = {
    "resnet18 for small images": ("resnet18", {"cifar_stem": True}),
    "seresnet18 for small images": ("seresnet18", {"cifar_stem": True}),
    "resnet18 with attention": ("resnet18", {"attention": resnet.squeeze}),
    "resnet18 with CBAM": ("resnet18", {"attention": resnet.cbam}),
    "vgg11 with norms": ("vgg11", {"norm": jc.layers.BatchNorm, "width": 0.1}),
    "vgg11_bn without": ("vgg11_bn", {"norm": None, "width": 0.1}),
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_forms_that_no_library_has_keep_our_own_names(form):
    name, options = OTHER_FORMS[form]
    model = MODELS[name](3, **options)
    assert list(state_dicts.sources(name, model, by_path.shapes(model, (32, 32, 3)))) == ["jaxcnn"]


def test_blocks_are_numbered_by_the_parts_that_they_have():
    """A MobileNet of few channels expands none in its second block either, and torchvision then counts from there."""
    model = MODELS["mobilenet_v3_large"](3, width=0.1)
    called = state_dicts.sources("mobilenet_v3_large", model, by_path.shapes(model, (32, 32, 3)))["torchvision"]
    assert called["params.stages_1_0.depthwise.conv.kernel"] == "features.2.block.0.0.weight"
    assert called["params.stages_3_0.depthwise.conv.kernel"] == "features.7.block.1.0.weight"


@pytest.fixture(scope="module")
def squeezed(tmp_path_factory):
    """A small file with torchvision's names."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.safetensors"
    state = state_dict("squeezenet1_1", "torchvision", (64, 64))
    save_file(state, path)
    return path, state


def changed(squeezed, path, **changes):
    save_file({**squeezed[1], **{key.replace("__", "."): x for key, x in changes.items()}}, path)
    return path


def test_a_file_is_read(squeezed):
    loaded = jc.load_weights("squeezenet1_1", squeezed[0])
    assert (loaded.source, loaded.model.num_classes, loaded.preprocessing) == ("torchvision", CLASSES, Preprocessing())
    np.testing.assert_array_equal(
        loaded.variables["params"]["stem"]["conv"]["kernel"], squeezed[1]["features.0.weight"].transpose(2, 3, 1, 0)
    )


def test_a_new_head_is_drawn_when_asked_for(squeezed):
    loaded = jc.load_weights("squeezenet1_1", squeezed[0], num_classes=3)
    assert loaded.model.num_classes == 3 and loaded.variables["params"]["logits"]["kernel"].shape[-1] == 3
    assert np.ptp(loaded.variables["params"]["logits"]["kernel"]) > 0
    kept = jc.load_weights("squeezenet1_1", squeezed[0], num_classes=CLASSES).variables["params"]["logits"]["kernel"]
    np.testing.assert_array_equal(kept[0, 0].T, squeezed[1]["classifier.1.weight"][:, :, 0, 0])


def predicted(loaded, pixels):
    """Logits of uint8 images, normalised as the weights want it."""
    inputs = prepare(jnp.asarray(pixels), loaded.preprocessing.mean, loaded.preprocessing.std)
    return apply(loaded.model, loaded.variables, inputs)


def test_gray_images_give_what_they_would_in_colour(squeezed, rng):
    gray, colour = (jc.load_weights("squeezenet1_1", squeezed[0], channels=c) for c in (1, 3))
    assert gray.preprocessing.mean == [pytest.approx(0.449)] and gray.preprocessing.std == [pytest.approx(0.226)]
    pixels = rng.integers(0, 256, (2, 40, 40, 1)).astype(np.uint8)
    np.testing.assert_allclose(
        predicted(gray, pixels), predicted(colour, np.repeat(pixels, 3, -1)), rtol=1e-4, atol=1e-5
    )
    # without normalisation there is nothing to make up for
    (gray, v, _), (colour, w, _) = (weights.from_state_dict("squeezenet1_1", squeezed[1], channels=c) for c in (1, 3))
    x = pseudo.images(40, 40, 1)
    np.testing.assert_allclose(apply(gray, v, x), apply(colour, w, np.repeat(x, 3, -1)), rtol=1e-4, atol=1e-5)


def test_gray_images_where_a_norm_follows(tmp_path, rng):
    """A padded convolution reads zeros outside of an image, which are another gray then: as near as that allows."""
    options, path = {"num_classes": 3, "widths": (8, 8)}, tmp_path / "x.safetensors"
    variables = initial(MODELS["cnn"](**options), (32, 32, 3))
    jc.save_weights(
        path,
        "cnn",
        variables,
        preprocessing=Preprocessing((0.2, 0.4, 0.7), (0.2, 0.3, 0.4)),
        image=(32, 32, 3),
        **options,
    )
    gray, colour = (jc.load_weights("cnn", path, channels=c) for c in (1, 3))
    pixels = rng.integers(0, 256, (4, 32, 32, 1)).astype(np.uint8)
    mine, theirs = (predicted(one, np.repeat(pixels, c, -1)) for one, c in ((gray, 1), (colour, 3)))
    assert difference(mine, theirs) < 0.03
    kernel = colour.variables["params"]["stem"]["conv"]["kernel"]
    scaled = np.asarray(kernel) * (0.3 / np.array([0.2, 0.3, 0.4]))[:, None]
    np.testing.assert_allclose(
        gray.variables["params"]["stem"]["conv"]["kernel"], scaled.sum(-2, keepdims=True), rtol=1e-5, atol=1e-6
    )


WRAPPED = {
    "module.": lambda k: f"module.{k}", "_orig_mod.": lambda k: f"_orig_mod.{k}", "model.": lambda k: f"model.{k}",
    "all of them": lambda k: f"state_dict.model.module._orig_mod.{k}",
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_names_in_wrappers(squeezed, tmp_path, wrapper):
    state = {WRAPPED[wrapper](key): x for key, x in squeezed[1].items()} | {"n_averaged": np.zeros((), np.int64)}
    save_file(state, tmp_path / "x.safetensors", {"format": "pt"})
    loaded = jc.load_weights("squeezenet1_1", tmp_path / "x.safetensors")
    jax.tree.map(
        np.testing.assert_array_equal, loaded.variables, jc.load_weights("squeezenet1_1", squeezed[0]).variables
    )


def test_a_name_in_front_of_some_tensors_stays(squeezed, tmp_path):
    state = {f"module.{key}" if i else key: x for i, (key, x) in enumerate(squeezed[1].items())}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(weights.WeightsError, match="51 missing .*51 unexpected"):
        jc.load_weights("squeezenet1_1", tmp_path / "x.safetensors")


def test_state_dicts_within_what_training_saves():
    state = {"a": 1}
    for saved in (
        {"state_dict": state},
        {"epoch": 3, "model": {"state_dict": state}},
        {"model_state_dict": {"module": state}},
        state,
    ):
        assert tensors.unwrapped(saved) is state


def test_published_names_of_densenet():
    """torchvision's files keep names that its code has changed since: `denselayer1.norm.1`, `conv.2`."""
    options = {"growth": 2, "width": 4}
    model = MODELS["densenet121"](3, **options)
    table = TABLES["densenet121"]["torchvision"]
    now = set(names(table, model, by_path.shapes(model, (32, 32, 3))).values())
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key) for key in now}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old and "features.norm0.bias" in old
    assert {current(table, key) for key in old} == now == {current(table, key) for key in now}
    with pytest.raises(InputError, match="1 tensors have both an old and a new name"):
        both = dict.fromkeys(["denselayer1.norm1.weight", "denselayer1.norm.1.weight"], np.zeros(1, np.float32))
        state_dicts.from_state_dict("densenet121", both, **options)


def test_colour_images_through_a_network_for_gray_ones(tmp_path):
    gray = MODELS["squeezenet1_1"](CLASSES)
    variables = initial(gray, (40, 40, 1))
    jc.save_weights(tmp_path / "gray.safetensors", "squeezenet1_1", variables, image=(40, 40, 1))
    assert (
        jc.load_weights("squeezenet1_1", tmp_path / "gray.safetensors")
        .variables["params"]["stem"]["conv"]["kernel"]
        .shape[2]
        == 1
    )
    larger = jc.load_weights(
        "squeezenet1_1", tmp_path / "gray.safetensors", image=(48, 48)
    )  # the file says how many channels
    assert larger.variables["params"]["stem"]["conv"]["kernel"].shape[2] == 1
    colour = jc.load_weights("squeezenet1_1", tmp_path / "gray.safetensors", channels=3)
    x = pseudo.images(40, 40, 1)
    y = apply(colour.model, colour.variables, np.repeat(x, 3, -1))
    np.testing.assert_allclose(y, apply(gray, variables, x), rtol=1e-4, atol=1e-5)


def test_our_own_files_say_how_to_use_them(tmp_path):
    path, made = tmp_path / "own.safetensors", Preprocessing((0.1,), (0.3,), 28, 28, classes=("a", "b", "c"))
    model = MODELS["cnn"](3, widths=(8, 8, 8))
    variables = initial(model, (28, 28, 1))
    more = {**variables, "group_dro": {"log_shares": jnp.zeros(2)}}  # what a loss keeps is no weight
    jc.save_weights(path, "cnn", more, preprocessing=made, num_classes=3, widths=(8, 8, 8))
    loaded = jc.load_weights("cnn", path)
    assert loaded.source == "jaxcnn" and loaded.model.num_classes == 3
    assert Preprocessing(*map(lambda v: tuple(v) if isinstance(v, list) else v, loaded.preprocessing)) == made
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, dict(variables))
    assert jc.load_weights("cnn", path, num_classes=5).preprocessing.classes == ()


def test_positions_are_resampled_for_another_size():
    options = {"width": 24, "heads": 3, "depth": 4, "patch": 8}
    model = MODELS["vit_tiny_patch16_224"](CLASSES, **options)
    variables = initial(model, (32, 32, 3))
    state = weights.to_state_dict("vit_tiny_patch16_224", variables, **options)
    assert state["pos_embed"].shape == (1, 17, 24)
    larger, found, _ = weights.from_state_dict("vit_tiny_patch16_224", state, image=(64, 64), **options)
    assert found["params"]["positions"].shape == (1, 65, 24)
    np.testing.assert_array_equal(found["params"]["positions"][:, :1], state["pos_embed"][:, :1])
    assert np.isfinite(apply(larger, found, pseudo.images(64, 64))).all()


def test_timm_says_beside_its_weights_what_they_want(squeezed, tmp_path):
    path = changed(squeezed, tmp_path / "model.safetensors")
    config = {"mean": HALF, "std": HALF, "input_size": [3, 96, 96], "crop_pct": 0.96, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    assert jc.load_weights("squeezenet1_1", path).preprocessing == Preprocessing(
        list(HALF), list(HALF), 96, 100, "bicubic"
    )


@pytest.mark.parametrize("name, theirs, fits", [
    ("efficientnet_b0", "efficientnet_b0", True), ("efficientnet_b0", "tf_efficientnet_b0", False),
    ("resnet18", "resnetblur18", False), ("resnet50", "gluon_resnet50_v1b", True),
    ("vit_tiny_patch16_224", "deit_tiny_patch16_224", True), ("mobilenet_v2", "mobilenetv2_100", True),
])  # fmt: skip
def test_weights_of_a_network_that_computes_something_else(name, theirs, fits):
    said = {"architecture": theirs, "pretrained_cfg": TIMM}
    if fits:
        assert from_timm(said, name=name).size == 96
    else:
        with pytest.raises(InputError, match=f"belong to {theirs}, which is a different network from {name}"):
            from_timm(said, name=name)


def test_a_state_dict_of_half_precision_is_float32():
    model = jc.models.mlp(num_classes=2, widths=(4,))
    variables = jax.tree.map(lambda x: x.astype(jnp.float16), initial(model, (4, 4, 1)))
    tensors = state_dicts.to_state_dict("mlp", variables, num_classes=2, widths=(4,))
    found = state_dicts.from_state_dict("mlp", tensors, image=(4, 4), widths=(4,), num_classes=2, channels=1)[1]
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}


def test_a_first_convolution_that_cannot_hold_the_means_takes_no_gray_images():
    path, gray = "params.stem.kernel", Preprocessing(mean=[0.45], std=[0.22])
    like = {path: jax.ShapeDtypeStruct((3, 3, 1, 4), np.float32)}
    with pytest.raises(InputError, match="channels=1: the first convolution has no bias that could absorb"):
        layout.other_channels({path: np.ones((3, 3, 3, 4), np.float32)}, like, Preprocessing(), gray)
    alike = Preprocessing(mean=[0.45] * 3, std=[0.22] * 3)  # no difference is left to hold
    assert layout.other_channels({path: np.ones((3, 3, 3, 4), np.float32)}, like, alike, gray)[path].shape == (
        3,
        3,
        1,
        4,
    )


TIMM = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 96, 96], "crop_pct": 0.96, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"mean": None}, "pretrained_cfg.mean: input should be a valid list, not None"),
        ({"mean": [0.5, 0.5]}, "must be one of each, or three"),
        ({"mean": [0.5, "x", 0.5]}, "pretrained_cfg.mean.1: input should be a valid number, not 'x'"),
        ({"mean": [float("nan")] * 3}, "must be finite"),
        ({"std": [0.5, 0, 0.5]}, "std positive"),
        ({"std": [-1, 1, 1]}, "std positive"),
        ({"input_size": [3, 96]}, "must be channels, height and width"),
        ({"input_size": [3, 10**9, 10**9]}, "must be 1 to 8192 pixels"),
        ({"input_size": "224"}, "pretrained_cfg.input_size: input should be a valid list"),
        ({"crop_pct": 0}, "crop_pct: 0.0: must be above 0"),
        ({"interpolation": "random"}, "interpolation 'random': must be one of bilinear, bicubic"),
        ({"interpolation": 3}, "interpolation: input should be a valid string, not 3"),
        ({"label_names": "abc"}, "label_names: input should be a valid list, not 'abc'"),
        ({"label_names": [1]}, "label_names.0: input should be a valid string, not 1"),
        ({"label_names": ["a", "b"]}, "2 label_names for 10 classes; correct or remove it"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not JSON"),
        ("pipe", "not a regular file"),
    ],
)
def test_what_timm_says_is_checked(squeezed, tmp_path, changes, words):
    path, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    os.link(squeezed[0], path)
    if changes == "pipe":
        os.mkfifo(config)
    else:
        config.write_text(changes if isinstance(changes, str) else json.dumps({"pretrained_cfg": TIMM | changes}))
    with pytest.raises(InputError) as caught:
        jc.load_weights("squeezenet1_1", path)
    line = str(caught.value)
    assert (
        line.startswith("config.json beside model.safetensors")
        and words in line
        and "\n" not in line
        and len(line) < 300
    )


def test_another_programs_config_beside_the_weights_says_nothing(squeezed, tmp_path):
    os.link(squeezed[0], tmp_path / "model.safetensors")
    for text in ("[]", '{"architectures": ["X"]}'):
        (tmp_path / "config.json").write_text(text)
        assert jc.load_weights("squeezenet1_1", tmp_path / "model.safetensors").preprocessing == Preprocessing()


@pytest.mark.parametrize(
    "about, words",
    [
        ([], "the whole: input should be a valid dictionary"),
        ("[" * 100_000, "nested too deeply"),
        ("{", "not JSON"),
        ({"options": 3}, "options: input should be a valid dictionary, not 3"),
        ({"options": {"depth": 10**9}}, "options: depth: 1000000000: too large, or no plain value"),
        ({"options": {"widths": [10**12]}}, "too large, or no plain value"),
        ({"options": {"widths": {"a": 1}}}, "too large, or no plain value"),
        (
            {"options": {"absent": 1}},
            "its metadata says {'options': {'absent': 1}, 'image': None}, which is no squeezenet1_1",
        ),
        ({"options": {"dtype": "\x1b[31m"}}, "dtype"),
        ({"image": [2, 2, 3]}, "which is no squeezenet1_1 (image shape (1, 2, 2, 3): must be at least "),
        ({"image": [2, 2, 3]}, "; name the network that the file is of"),
        ({"image": [1]}, "image: [1]: must be height, width and perhaps channels"),
        ({"image": [10**9, 10**9]}, "must be height, width and perhaps channels"),
        ({"image": "224"}, "image: input should be a valid list"),
        ({"image": [1, 1]}, "must be at least"),
        ({"preprocessing": {"mean": [1, 2]}}, "must be one of each, or three"),
        ({"preprocessing": {"std": [0.0]}}, "must be one of each, or three"),
        ({"preprocessing": {"classes": [1]}}, "preprocessing: classes.0: input should be a valid string, not 1"),
        ({"preprocessing": {"size": -1}}, "must be 1 to 8192 pixels"),
        ({"preprocessing": []}, "preprocessing: input should be a valid dictionary"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(squeezed, tmp_path, about, words):
    path = tmp_path / "x.safetensors"
    save_file(squeezed[1], path, {"jaxcnn": about if isinstance(about, str) else json.dumps(about)})
    with pytest.raises(InputError) as caught:
        jc.load_weights("squeezenet1_1", path)
    line = str(caught.value)
    assert words in line and line.isprintable() and len(line) < 400


def forged(path, header, data=b""):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def tensor(shape=(2,), at=(0, 8), dtype="F32", **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at), **more}


@pytest.mark.parametrize(
    "header, words",
    [
        ((2**40).to_bytes(8, "little"), "a header of 1,099,511,627,776 bytes in a file of 8"),
        (b"123", "a header of"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "utf-8"),
        ([], "no JSON object"),
        ({"a": 3}, "tensor 'a' is described by 3"),
        ({"a": tensor(more=1)}, "tensor 'a' is described by"),
        ({"a": tensor((2**40,), (0, 2**42))}, "is stated at bytes [0, 4398046511104] of 8"),
        ({"a": tensor((2**62, 2**62))}, "is stated at bytes [0, 8] of 8"),
        ({"a": tensor((-2,))}, "has the shape [-2]"),
        ({"a": tensor((2.0,))}, "has the shape [2.0]"),
        ({"a": tensor(at=(8, 0))}, "is stated at bytes"),
        ({"a": tensor(dtype="F7")}, "is of type 'F7'"),
        ({"a": tensor(dtype=None)}, "is of type 'None'"),
        ({"a": tensor(), "b": tensor()}, "begins at byte 0, where 8 bytes come before it"),
        ({"a": tensor((1,), (4, 8))}, "begins at byte 4, where 0 bytes come before it"),
        ({"a": tensor((1,), (0, 4))}, "tensors of 4 bytes in 8"),
        (
            b'{"a":'
            + json.dumps(tensor((1,), (0, 4))).encode()
            + b',"a":'
            + json.dumps(tensor((1,), (4, 8))).encode()
            + b"}",
            "twice",
        ),
        ({"__metadata__": {"jaxcnn": 3}, "a": tensor()}, "__metadata__: jaxcnn: input should be a valid string, not 3"),
        ({"__metadata__": [], "a": tensor()}, "__metadata__: the whole: input should be a valid dictionary"),
    ],
)
def test_headers_that_lie(tmp_path, header, words):
    path = tmp_path / "x.safetensors"
    if isinstance(header, bytes) and len(header) <= 8 and header != b"\xff":
        path.write_bytes(header)
    else:
        forged(path, header, bytes(8))
    with pytest.raises(InputError, match="no sound safetensors file") as caught:
        jc.load_weights("squeezenet1_1", path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_far_more_than_the_network_is_not_read(squeezed, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "count", lambda *args: -(10**8) // 4)  # as if the file had a hundred million more
    with pytest.raises(InputError, match="holds .* numbers, far more than the network has"):
        jc.load_weights("squeezenet1_1", squeezed[0])
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="not a regular file"):
        jc.load_weights("squeezenet1_1", tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "value, words",
    [
        (np.full((16,), np.inf, np.float32), "not finite in features.3.squeeze.bias: 16"),
        (np.full((16,), 1e300), "not finite in features.3.squeeze.bias: 16"),  # float64, beyond float32
        (np.ones((16,), np.int8), "weights of type int8 in features.3.squeeze.bias; must be floating-point"),
        (np.ones((16,), np.int64), "weights of type int64"),
        (np.ones((16, 1, 1), np.float32), None),
        (np.ones((16,), jnp.bfloat16), None),
        (np.ones((16,)), None),
        (np.ones((), np.float32), "of another shape"),
        (np.ones((0,), np.float32), "of another shape"),
        (np.ones((4, 4), np.float32), None),  # what is written as one axis may have others, as published factors do
        (np.ones((17,), np.float32), "of another shape"),
    ],
)
def test_types_and_values(squeezed, tmp_path, value, words):
    path = changed(squeezed, tmp_path / "x.safetensors", features__3__squeeze__bias=value)
    if words is None:
        bias = jc.load_weights("squeezenet1_1", path).variables["params"]["stages_0_0"]["squeeze"]["bias"]
        assert bias.dtype == np.float32 and (np.asarray(bias) == 1).all()
    else:
        with pytest.raises(InputError, match=words):
            jc.load_weights("squeezenet1_1", path)


def test_a_negative_variance_is_refused():
    state = {"a.running_var": np.float32([1, -1])}
    with pytest.raises(InputError, match="negative variances in a.running_var"):
        checks.refuse_unusable(state)


def test_weights_are_not_written_through_a_link(squeezed, tmp_path):
    loaded, other, path = jc.load_weights("squeezenet1_1", squeezed[0]), tmp_path / "other", tmp_path / "x.safetensors"
    other.write_bytes(b"mine")
    path.symlink_to(other)
    jc.save_weights(path, "squeezenet1_1", loaded.variables)
    assert other.read_bytes() == b"mine" and not path.is_symlink() and len(load_file(path)) == len(squeezed[1])
    with pytest.raises(InputError, match="cannot be written"):
        jc.save_weights(path, "squeezenet1_1", loaded.variables, preprocessing=Preprocessing((float("nan"),), (1.0,)))
    assert len(load_file(path)) == len(squeezed[1]) and sorted(p.name for p in tmp_path.iterdir()) == [
        "other",
        "x.safetensors",
    ]


class Code:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code of a weight file was run')",))


def test_damaged_and_foreign_files_are_named(squeezed, tmp_path):
    path, state = squeezed
    whole = path.read_bytes()
    cases = {}
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[: len(whole) // 2])
    cases["no sound safetensors file"] = cut
    code = tmp_path / "code.safetensors"
    code.write_bytes(pickle.dumps(Code()))
    cases["code.safetensors: no sound safetensors file"] = code
    bad = np.array(state["features.3.squeeze.bias"])
    bad[2:4] = np.nan
    cases[r"not finite in features\.3\.squeeze\.bias: 2"] = changed(
        squeezed, tmp_path / "nan.safetensors", features__3__squeeze__bias=bad
    )
    (tmp_path / "x.h5").write_bytes(b"")
    cases["must be a .safetensors file"] = tmp_path / "x.h5"
    wrong = changed(
        squeezed,
        tmp_path / "shape.safetensors",
        features__0__weight=np.zeros((64, 3, 5, 5), np.float32),
        more=np.zeros(1),
    )
    cases[r"1 unexpected \(more\); 1 of another shape \(features\.0\.weight \[64, 3, 5, 5\] for \[64, 3, 3, 3\]\)"] = (
        wrong
    )
    for words, file in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            jc.load_weights("squeezenet1_1", file)
        assert "\n" not in str(caught.value)


def test_another_networks_file_lists_everything(squeezed):
    with pytest.raises(
        weights.WeightsError, match=r"squeezenet1_1.safetensors does not fit resnet18: 102 missing \(layer1"
    ) as caught:
        jc.load_weights("resnet18", squeezed[0])
    assert len(caught.value.unexpected) == len(squeezed[1]) and len(caught.value.missing) == 102
    with pytest.raises(InputError, match="model 'resnet19': unknown"):
        jc.load_weights("resnet19", squeezed[0])
    with pytest.raises(InputError, match="channels=2: must be 1 or 3"):
        jc.load_weights("squeezenet1_1", squeezed[0], channels=2)
    with pytest.raises(InputError, match="num_classes=0: must be at least 1"):
        jc.load_weights("squeezenet1_1", squeezed[0], num_classes=0)


def test_half_precision_is_widened_and_said(squeezed, tmp_path, caplog):
    save_file({key: x.astype(np.float16) for key, x in squeezed[1].items()}, tmp_path / "half.safetensors")
    loaded = jc.load_weights("squeezenet1_1", tmp_path / "half.safetensors")
    assert "half.safetensors: numbers are float16, kept as float32" in caplog.text
    assert {x.dtype.name for x in jax.tree.leaves(loaded.variables)} == {"float32"}


def test_pickles_need_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(pickle.dumps(Code()))
    with pytest.raises(InputError, match="needs torch; install it, or get the weights as .safetensors"):
        jc.load_weights("squeezenet1_1", tmp_path / "x.pth")


def test_pickles_run_no_code(squeezed, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({key: torch.from_numpy(x) for key, x in squeezed[1].items()}, tmp_path / "good.pth")
    loaded = jc.load_weights("squeezenet1_1", tmp_path / "good.pth")
    jax.tree.map(
        np.testing.assert_array_equal, loaded.variables, jc.load_weights("squeezenet1_1", squeezed[0]).variables
    )
    torch.save({"a": Code()}, tmp_path / "code.pth")
    with pytest.raises(InputError, match="holds more than tensors, or is damaged"):
        jc.load_weights("squeezenet1_1", tmp_path / "code.pth")


def test_what_cannot_be_written_is_said(squeezed, tmp_path):
    loaded = jc.load_weights("squeezenet1_1", squeezed[0])
    with pytest.raises(InputError, match="cannot be written"):
        jc.save_weights(tmp_path / "no" / "x.safetensors", "squeezenet1_1", loaded.variables)
    jc.save_weights(tmp_path / "x.safetensors", "squeezenet1_1", loaded.variables)
    again = load_file(tmp_path / "x.safetensors")
    assert again.keys() == squeezed[1].keys() and all(np.array_equal(again[key], x) for key, x in squeezed[1].items())
