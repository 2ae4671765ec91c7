"""`jaxcnn export RUN --to torch`: the file runs in PyTorch, gives our outputs and gradients, and what is refused."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.cli.main import main
from jaxcnn.deploy import formats
from jaxcnn.deploy.torch.layers import SMALL
from jaxcnn.deploy.torch.published import published
from jaxcnn.weights.by_path import shapes
from jaxcnn.weights.tables import TABLES
from tests.fixtures import pseudo
from tests.serving import build, save

NETWORKS = {
    "cnn": ("cnn", (28, 28, 1), {"widths": [3, 4, 5]}),
    "lenet5": ("lenet5", (28, 28, 1), {}),
    "lenet5 of another size": ("lenet5", (33, 29, 3), {}),
    "mlp": ("mlp", (9, 7, 3), {"widths": [6, 5]}),
    "plain": ("plain", (28, 30, 1), {"depth": 4, "width": 5}),
    "plain with norms": (
        "plain", (20, 16, 3), {"width": 5, "pool": "average", "activation": "tanh", "batch_norm": True}
    ),
    "plain with a hidden layer": (
        "plain", (28, 28, 1), {"widths": [3, 4], "kernel_size": 5, "pools": 2, "hidden": 6, "activation": "tanh"}
    ),
    "plain with strides": ("plain", (29, 28, 1), {"widths": [3, 4], "kernel_size": 4, "stride": 2, "pools": 1}),
    "speednet": ("speednet", (32, 32, 3), {"widths": [4, 6, 5]}),
    "tutorial": ("tutorial", (28, 28, 1), {}),
    "resnet18": ("resnet18", (40, 32, 3), {"width": 64}),
    "resnet18 for CIFAR": ("resnet18", (16, 16, 1), {"cifar_stem": True}),
    "gray mobilenet": ("mobilenet_v3_small", (32, 32, 1), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def run_of(folder, model, shape, options, task="classification", classes=("bee", "cat", "dog"), **more):
    """Save a run whose weights and statistics are random, and return it loaded."""
    about = build(shape, task, model, {"num_classes": 3, **options}, **more)
    made = jc.models.NETWORKS[model](**about["model"]["options"])
    side = more.get("size") or shape[:2]
    variables = pseudo.variables(made, (*side, shape[2]))
    rows = {"image": np.zeros((2, *shape), np.uint8), "label": np.zeros(2, np.int32)}
    if task == "segmentation":
        rows["label"] = np.zeros((2, *shape[:2]), np.int32)
    jc.save_run(folder, jc.runs.build(about)[1], variables, jc.data.Resident(rows, classes), batch_size=2, build=about)
    return jc.load_run(folder)


def module_of(path):
    spec = importlib.util.spec_from_file_location("exported", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def agrees(torch, loaded, path, shape):
    """Compare outputs for bytes and floats, and gradients, with those of the run."""
    network, gaps = module_of(path).load(), []
    assert not network.training
    for seed in range(3, 6):  # rounding may put a value on the other side of a ReLU's kink: of one draw, not of all
        gaps.append(compared(torch, loaded, network, shape, np.random.default_rng(seed)))
        if gaps[-1] <= 2e-4:
            return
    raise AssertionError(f"gradients differ by {gaps} of the largest")


def compared(torch, loaded, network, shape, rng):
    """Compare outputs, and return the largest difference of gradients over the largest gradient."""
    for dtype in (np.uint8, np.float32):
        x = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
        x = x if dtype == np.uint8 else (x / 255).astype(np.float32)
        ours = np.asarray(loaded.task.predict(loaded.variables, {"image": x}))
        given = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        theirs = network(given).detach().numpy()
        np.testing.assert_allclose(theirs, ours, 0, 2e-5 * np.abs(ours).max())
    weights = rng.normal(size=ours.shape).astype(np.float32)
    wanted = jax.grad(lambda x: (loaded.task.predict(loaded.variables, {"image": x}) * weights).sum())(jnp.asarray(x))
    given.requires_grad_(True)
    (network(given) * torch.from_numpy(weights)).sum().backward()
    found = given.grad.numpy().transpose(0, 2, 3, 1)
    return np.abs(found - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_run(torch, tmp_path, name):
    model, shape, options = NETWORKS[name]
    if model not in SMALL:
        pytest.importorskip("torchvision")
    mean, std = [0.1, 0.2, 0.3][: shape[2]], [0.4, 0.5, 0.6][: shape[2]]
    loaded = run_of(tmp_path / "run", model, shape, options, mean=mean, std=std)
    made = jc.export(loaded, "torch", tmp_path / "net", rows=5)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "run") == ["net.py", "net.py.json", "net.safetensors"]
    assert made.report["check"]["largest_difference"] < 2e-5 and made.report["layout"] == "NCHW"
    agrees(torch, loaded, made.path, shape)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape, size, resize", [((40, 50, 1), [24, 26], None), ((20, 31, 1), [28, 24], 30)])
def test_images_are_resized_as_by_the_run(torch, tmp_path, shape, size, resize, interpolation):
    how = {"size": size, "interpolation": interpolation} | ({"resize": resize} if resize else {})
    loaded = run_of(tmp_path / "run", "cnn", shape, {"widths": [3, 4]}, **how)
    made = jc.export(loaded, "torch", tmp_path / "net", rows=5)
    agrees(torch, loaded, made.path, shape)
    outside = jc.export(loaded, "torch", tmp_path / "outside", rows=5, preprocessing="outside")
    assert outside.report["inputs"]["image"]["shape"] == ["any", *size, 1]


def test_names_in_the_file_are_only_text(torch, tmp_path):
    classes = ('a"""\nimport os', "b\\", "'c' \u202e \U0001f41d")
    folder = tmp_path / '""" raise SystemExit #'
    run_of(folder, "mlp", (4, 4, 1), {"widths": [3]}, classes=classes)
    made = jc.export(folder, "torch", tmp_path / "net", rows=3)
    found = module_of(made.path)
    assert tuple(found.CLASSES) == classes and found.RUN == folder.name and found.STEP == 0
    assert made.path.read_text().isascii()


def test_the_command(torch, tmp_path, capsys):
    run = save(tmp_path / "run", build((24, 24, 3)))
    assert main(["export", str(run), "--to", "torch"]) == 0
    assert '"agreement": 1.0' in capsys.readouterr().out
    assert {p.name for p in (run / "exported").iterdir()} == {"model.py", "model.py.json", "model.safetensors"}
    assert main(["export", str(run), "--to", "torch", "--out", str(tmp_path / "torch.py")]) == 2
    assert "torch.py: not a name" in capsys.readouterr().err
    assert main(["export", str(run), "--to", "torch", "--runtime", "x"]) == 2
    assert "only for page and html" in capsys.readouterr().err


@pytest.mark.parametrize(
    "model, shape, task, more, line",
    [
        ("resnet20", (32, 32, 3), "classification", {}, "neither torchvision nor timm has resnet20"),
        ("resnet18", (32, 32, 3), "classification", {"options": {"width": 16}}, "no network with these options"),
        ("unet", (32, 32, 3), "segmentation", {"options": {"widths": [4, 8]}}, "neither torchvision nor timm has unet"),
        ("cnn", (24, 24, 3), "regression", {"options": {"widths": [3, 4]}}, "is for classification and segmentation"),
    ],
)
def test_networks_without_a_twin_are_refused(torch, tmp_path, model, shape, task, more, line):
    if "width" in more.get("options", {}):
        pytest.importorskip("torchvision")
    run = save(tmp_path / "run", build(shape, task, model, more.get("options", {}) | {"num_classes": 3}))
    with pytest.raises(InputError, match=line):
        jc.export(run, "torch", tmp_path / "net", rows=3)
    assert not [p for p in tmp_path.iterdir() if p.name != "run"]


def test_a_program_without_a_run_is_refused(tmp_path):
    model = jc.models.lenet5()
    made = jc.deploy.of_model(model, pseudo.variables(model, (28, 28, 1)), (28, 28, 1))
    with pytest.raises(InputError, match="without a run's description"):
        jc.export(made, "torch", tmp_path / "net")


def test_torch_that_is_not_installed(tmp_path, monkeypatch):
    run = save(tmp_path / "run", build((24, 24, 3)))
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(InputError, match="torch is not installed .*pip install"):
        jc.export(run, "torch", tmp_path / "net", rows=3)
    assert "torch" in formats.EXPORTERS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLES if not name.startswith(("faster", "fcos", "ssd"))])
def test_every_network_with_a_twin_has_its_tensors(torch, name):
    """That logits are equal is shown for some networks here, and for the tables of names by the tests of weights."""
    pytest.importorskip(next(iter(TABLES[name])))
    side = 299 if name == "inception_v3" else 224
    model = jc.models.NETWORKS[name](num_classes=3)
    like = shapes(model, (side, side, 3))
    twin = published(
        name, model, {k: np.broadcast_to(np.float32(0), x.shape) for k, x in like.items()}, (side, side, 3)
    )
    names = {"torch": torch, "nn": torch.nn}
    with torch.device("meta"):
        exec("\n".join([twin.parts, *twin.made]), names)
        logits = names["network"].eval()(torch.zeros(1, 3, side, side))
    wanted = {k: tuple(x.shape) for k, x in names["network"].state_dict().items()}
    assert {k: x.shape for k, x in twin.tensors.items()} == wanted and logits.shape[:2] == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "densenet121", "convnext_tiny", "fcn_resnet50", "seresnet18", "vit_tiny_patch16_224"]
)
def test_some_networks_with_a_twin(torch, tmp_path, name):
    library = next(iter(TABLES[name]))
    pytest.importorskip(library)
    side, dense = 224 if name.startswith("vit") else 64, name.startswith("fcn")
    loaded = run_of(tmp_path / "run", name, (side, side, 3), {}, "segmentation" if dense else "classification")
    made = jc.export(loaded, "torch", tmp_path / "net", rows=3)
    assert made.report["check"]["largest_difference"] < 1e-4 and library in made.report
    alone = f"import sys; sys.modules['{library}'] = None; import net; print(sum(1 for _ in net.load().parameters()))"
    count = subprocess.run([sys.executable, "-c", alone], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(count.stdout) == len(jax.tree.leaves(loaded.variables["params"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "fcn_resnet50"])
def test_auxiliary_heads_are_written(torch, tmp_path, name):
    pytest.importorskip("torchvision")
    side = 299 if name == "inception_v3" else 64
    task = "segmentation" if name == "fcn_resnet50" else "classification"
    loaded = run_of(tmp_path / "run", name, (side, side, 3), {"aux": True}, task)
    jc.export(loaded, "torch", tmp_path / "net", rows=2)
