"""Weights of torchvision and timm give the same logits here, survive the way there and back, and bad files are named."""

import json
import pathlib
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxcnn as jc
from jaxcnn import InputError, state_dicts, weights
from jaxcnn.models import MODELS
from jaxcnn.preprocessing import HALF, Preprocessing
from tests.fixtures import pseudo

HERE = pathlib.Path(__file__).parent / "fixtures"
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
    like = state_dicts._like(model, (*size, 3))
    names = state_dicts._names(model, source, like)
    shapes = {there: state_dicts._theirs(state_dicts._shaped(like[path].shape), there, source).shape for path, there in names.items()}
    if source == "timm" and name.startswith("vgg"):  # there the dense layers are convolutions
        for layer, side in (("pre_logits.fc1", 7), ("pre_logits.fc2", 1)):
            wide, narrow = shapes[f"{layer}.weight"]
            shapes[f"{layer}.weight"] = (wide, narrow // side**2, side, side)
    counters = [there.replace("running_mean", state_dicts.COUNTER) for there in shapes if there.endswith("running_mean")]
    return {there: pseudo.tensor(there, shape) for there, shape in (shapes | dict.fromkeys(counters, ())).items()}


def initial(model, shape):
    quick = jax.jit(lambda key: model.init(key, jnp.zeros((1, *shape))), compiler_options={"xla_backend_optimization_level": 0})
    return quick(jax.random.key(0))


def apply(model, variables, x, **options):
    compiled = jax.jit(lambda v, x: model.apply(v, x, **options), compiler_options={"xla_backend_optimization_level": 0})
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
    assert found == source or model.torch_names(found) == model.torch_names(source)
    assert model.num_classes == CLASSES
    counted = [x.size for path, x in state_dicts._flat(variables["params"]).items() if not path.startswith("extra_")]
    assert sum(counted) == golden["parameters"]
    x = pseudo.images(*golden["size"])
    if options:
        logits, extra = apply(model, variables, x, method="with_auxiliary")
        assert max(map(difference, extra, golden["auxiliary"])) < 1e-4
    else:
        logits = apply(model, variables, x)
    assert difference(logits, golden["logits"]) < 1e-4
    if found == model.sources[0] or source == model.sources[0]:
        back = weights.to_state_dict(name, variables, **options)
        assert back.keys() == state.keys()
        for there, tensor in state.items():
            assert back[there].dtype == tensor.dtype and np.array_equal(back[there], tensor), there


def test_every_family_with_a_reader_is_compared():
    names = {key.split()[1] for key in GOLDEN}
    assert {name for name, make in MODELS.items() if make().sources} == names
    assert {type(MODELS[key.split()[1]]()) for key in GOLDEN} == {type(MODELS[name]()) for name in names}
    assert {source for name in names for source in MODELS[name]().sources} == {"torchvision", "timm"}


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


def test_gray_images_give_what_they_would_in_colour(squeezed):
    gray, colour = (jc.load_weights("squeezenet1_1", squeezed[0], channels=c) for c in (1, 3))
    x = pseudo.images(40, 40, 1)
    expected = apply(colour.model, colour.variables, np.repeat(x, 3, -1))
    np.testing.assert_allclose(apply(gray.model, gray.variables, x), expected, rtol=1e-4, atol=1e-5)


def test_colour_images_through_a_network_for_gray_ones(tmp_path):
    gray = MODELS["squeezenet1_1"](CLASSES)
    variables = initial(gray, (40, 40, 1))
    jc.save_weights(tmp_path / "gray.safetensors", "squeezenet1_1", variables, image=(40, 40, 1))
    assert jc.load_weights("squeezenet1_1", tmp_path / "gray.safetensors").variables["params"]["stem"]["conv"]["kernel"].shape[2] == 1
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
    assert jc.load_weights("squeezenet1_1", path).preprocessing == Preprocessing(list(HALF), list(HALF), 96, 100, "bicubic")


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
    cases[r"not finite in features\.3\.squeeze\.bias: 2"] = changed(squeezed, tmp_path / "nan.safetensors", features__3__squeeze__bias=bad)
    (tmp_path / "x.h5").write_bytes(b"")
    cases["must be a .safetensors file"] = tmp_path / "x.h5"
    wrong = changed(squeezed, tmp_path / "shape.safetensors", features__0__weight=np.zeros((64, 3, 5, 5), np.float32), more=np.zeros(1))
    cases[r"1 unexpected \(more\); 1 of another shape \(features\.0\.weight \[64, 3, 5, 5\] for \[64, 3, 3, 3\]\)"] = wrong
    for words, file in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            jc.load_weights("squeezenet1_1", file)
        assert "\n" not in str(caught.value)


def test_another_networks_file_lists_everything(squeezed):
    with pytest.raises(weights.WeightsError, match=r"squeezenet1_1.safetensors does not fit resnet18: 102 missing \(layer1") as caught:
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
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, jc.load_weights("squeezenet1_1", squeezed[0]).variables)
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
