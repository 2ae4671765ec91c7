"""The recipes of ImageNet: what their flags mean, and a short run on photos."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import imagenet
from experiments.benchmarks import accelerator

ROOT = pathlib.Path(__file__).resolve().parents[2]
A3 = imagenet.Config(**imagenet.A3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes that differ in colour, of several sizes, with ImageNet's folders."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 6)):
        for c, name in enumerate(("n01", "n02")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (70 + i, 90 - i, 3))
                pixels[..., c] += 120
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / name / f"{i}.jpg")
    return root


def rates(config, steps):
    """The learning rates of SGD on a gradient of one, without momentum's memory, at each step."""
    tx, params = imagenet.optimizer(config, steps), {"kernel": np.zeros((2, 2), np.float32)}
    state = tx.init(params)
    found = []
    for _ in range(steps):
        _, state = jax.jit(tx.update)({"kernel": np.zeros((2, 2), np.float32)}, state, params)
        found.append(jc.optim.learning_rate(state))
    return np.array(found)


def test_the_rate_follows_the_batch_and_falls_three_times():
    found = rates(imagenet.Config(batch_size=512), 180)
    assert found[10:60] == pytest.approx(0.2) and found[61:120] == pytest.approx(0.02)
    assert found[121:160] == pytest.approx(2e-3) and found[161:] == pytest.approx(2e-4)
    assert found[0] == pytest.approx(0.02) and (np.diff(found[:10]) > 0).all()


def test_a3_is_the_recipe_of_its_paper():
    found = rates(A3, 100)
    assert found.max() == pytest.approx(8e-3, rel=1e-3) and found[-1] < 2e-5
    assert (A3.epochs, A3.batch_size, A3.train_size, A3.image_size, A3.crop_ratio) == (100, 2048, 160, 224, 0.95)
    assert (A3.optimizer, A3.loss, A3.mixup, A3.cutmix, A3.weight_decay) == (
        "lamb",
        "binary_cross_entropy",
        0.1,
        1,
        0.02,
    )


def test_the_augmentation_of_a3_mixes_and_keeps_the_shape():
    change = jax.jit(imagenet.augmentation(A3, 10))
    batch = {"image": np.full((4, 16, 16, 3), 100, np.uint8), "label": np.array([1, 2, 3, 4])}
    out = change(jax.random.key(0), batch)
    assert out["image"].shape == (4, 16, 16, 3) and out["label"].shape == (4, 10)
    assert np.asarray(out["label"]).sum(-1) == pytest.approx(1)


def test_synthetic_photos_are_as_many_as_in_imagenet():
    splits = imagenet.synthetic(32, 16, 0.01)
    assert splits.train.size + splits.valid.size == 1_281_167 and splits.test.size == 50_000
    assert splits.train.chunk(4, 100, 2, 2).batches["image"].shape == (2, 4, 16, 16, 3)
    assert splits.test.example()["image"].shape == (1, 32, 32, 3) and len(splits.test.classes) == 1000


@pytest.mark.parametrize(
    "options, message",
    [
        ({"optimizer": "adam"}, "--optimizer 'adam'"),
        ({"optimizer": "lamb"}, "--optimizer lamb: give --learning-rate"),
        ({"schedule": "stairs"}, "--schedule 'stairs'"),
        ({"loss": "mse"}, "--loss 'mse'"),
        ({"epochs": 9}, "--warmup-epochs 5: at most 3"),
        ({"rand_augment": 31}, "--rand-augment 31: must be from 0 to 30"),
        ({"crop_ratio": 1.1}, "--crop-ratio 1.1"),
        ({"mixup": -1.0}, "--mixup -1.0"),
        ({"dataset": "digits"}, "--dataset 'digits': must be a TFDS name or an image folder"),
        ({"model": "resnet5"}, "--model 'resnet5'"),
    ],
)
def test_bad_flags_are_one_line(options, message):
    with pytest.raises(jc.InputError, match=message):
        imagenet.plan(imagenet.Config(**options))


@pytest.mark.slow
def test_the_training_step_is_measured():
    arguments = ["--smoke", "--precision", "float32", "--peak-tflops", "0.5"]
    line = [sys.executable, "-m", "experiments.benchmarks.accelerator", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["model"] == "resnet18" and found["batch_size"] == 8 and 0 <= found["time_lost_to_input"] < 1
    reached = found["images_per_second"] * found["gflop_per_image"] * 1e9
    assert found["mfu"] == pytest.approx(reached / 0.5e12 / found["devices"], rel=1e-6)
    assert 0.5 < found["gflop_per_image"] < 1.2  # three times 0.15 GFLOP of multiply-adds, which count twice


@pytest.mark.parametrize(
    "kind, peak", [("NVIDIA H100 80GB HBM3", 989), ("TPU v5 lite", 197), ("TPU v5p", 459), ("x", 0)]
)
def test_peaks_are_those_of_the_data_sheets(kind, peak):
    assert accelerator.known_peak(kind) == peak


def test_a_run_on_photos_resumes_predicts_and_loads_into_torchvision_s_names(photos, tmp_path):
    def command(*arguments):
        line = [sys.executable, "-m", "experiments.imagenet", *map(str, arguments)]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command("--smoke", "--dataset", photos, "--workdir", tmp_path, "--rand-augment", 5, "--cutmix", 1.0)
    (run,) = tmp_path.iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["test"]["count"] == 12 and summary["steps"] == 4 and summary["best_step"] == 4
    answer = json.loads(command("--predict", photos / "val/n01/0.jpg", "--checkpoint", run).splitlines()[-1])
    assert answer["class"] in ("n01", "n02")
    measured = json.loads(command("--evaluate", "--checkpoint", run).splitlines()[-1])
    assert measured["accuracy"] == pytest.approx(summary["test"]["accuracy"])
    loaded = jc.load_run(run)
    jc.save_weights(tmp_path / "w.safetensors", "resnet18", loaded.variables, num_classes=2)
    again = jc.load_weights("resnet18", tmp_path / "w.safetensors")
    assert again.source == "torchvision"
    jax.tree.map(np.testing.assert_array_equal, again.variables["params"], loaded.variables["params"])
