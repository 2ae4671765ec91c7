"""Flags of the experiments: each has its effect, or is refused."""

import types

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import (
    cifar10,
    compression,
    faces,
    few_labels,
    few_shot,
    forecast,
    fusion,
    hippocampus,
    inspection,
    mnist,
    moving_digits,
    roads,
    sentiment,
    series,
    settings,
    track_digits,
    transfer_curve,
)  # fmt: skip
from experiments.studies import search
from jaxcnn.core.types import InputError


@pytest.mark.parametrize("module", [faces, forecast, moving_digits, roads, series])
def test_parts_that_are_fixed_are_not_cut(module):
    with pytest.raises(InputError, match="--validation-fraction 0.4: has no effect here; the data have fixed parts"):
        module.plan(module.Config(validation_fraction=0.4))


def test_rows_of_a_run_are_those_that_it_had():
    saved = {"split": 1, "validation_fraction": 0.2}
    own = settings.of_run(hippocampus.Config(), saved, "split", "validation_fraction")
    assert own == saved == settings.of_run(hippocampus.Config(split=1), saved, "split", "validation_fraction")
    with pytest.raises(InputError, match="--split 2: the run was trained with 1, which decides the test rows"):
        settings.of_run(hippocampus.Config(split=2), saved, "split")


@pytest.mark.parametrize("module", [track_digits, inspection])
def test_runs_of_others_are_not_measured(module, monkeypatch):
    monkeypatch.setattr(jc, "load_run", lambda folder: types.SimpleNamespace(config={"experiment": "mnist"}))
    config = module.Config(evaluate=True, checkpoint="run")
    with pytest.raises(InputError, match="--checkpoint run: a run of mnist, not of"):
        module.main(config, None, [])


def test_a_measurement_has_the_data_of_its_run(monkeypatch):
    saved = {"data": "a", "sounds": "b", "unpacked": "", "only": "both", "noise": 0.8, "snr": 0.0}
    loaded = types.SimpleNamespace(config={"experiment": "fusion", "settings": saved})
    monkeypatch.setattr(jc, "load_run", lambda folder: loaded)
    with pytest.raises(InputError, match="--noise 0.1: the run was trained with 0.8"):
        fusion.main(fusion.Config(evaluate=True, checkpoint="run", noise=0.1), None, [])
    with pytest.raises(InputError, match="DATA other: --evaluate reads the test rows of the run"):
        sentiment.main(sentiment.Config(data="other", evaluate=True, checkpoint="run"), None, [])


def test_a_folder_has_as_many_photos_as_an_archive(tmp_path):
    for part, each in (("train", 12), ("test", 2)):
        for k, name in enumerate(("bee", "cat")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(np.full((4, 4, 3), 100 * k + i, np.uint8)).save(tmp_path / part / name / f"{i}.png")
    pool, test = few_labels.read(few_labels.Config(data=str(tmp_path), photos=5))
    assert np.bincount(pool.label).tolist() == [5, 5] and test.size == 4


def test_flags_that_others_decide():
    with pytest.raises(InputError, match="--batch-size 7: has no effect here; use --updates; the search"):
        search.check(search.Config(batch_size=7))
    with pytest.raises(InputError, match="--max-steps 5: has no effect here"):
        search.check(search.Config(max_steps=5))
    with pytest.raises(InputError, match="--batch-size 7: has no effect here; use --ways and --queries"):
        few_shot.main(few_shot.Config(batch_size=7), None, [])
    with pytest.raises(InputError, match="--widths: --run brings its own network"):
        compression.check(compression.Config("mnist", data="x", run="run", widths=(8, 8), seeds=1))
    with pytest.raises(InputError, match="--per-class 4 4: has a number twice; give each once"):
        transfer_curve.main(transfer_curve.Config(per_class=(4, 4)), None, [])


def test_images_that_are_not_resized(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 255, (20, 8, 8, 3), np.uint8) for part in ("train", "test")}
    np.savez(tmp_path / "x.npz", **arrays, **{f"y_{part}": np.arange(20) % 2 for part in ("train", "test")})
    config = cifar10.Config(
        dataset=str(tmp_path / "x.npz"), image_size=16, shift=2, model="tutorial", validation_fraction=0.2
    )
    with pytest.raises(InputError, match="--image-size 16: these images are not resized; leave it out"):
        cifar10.plan(config)


def test_variants_of_a_run_are_trained_with_its_optimiser():
    saved = {
        "optimizer": "sgd",
        "schedule": "constant",
        "weight_decay": 0.0,
        "learning_rate": 0.2,
        "seed": 7,
        "muon": 1,
    }
    given = compression.optimiser_of(mnist.Config, saved)
    assert given == {k: saved[k] for k in ("optimizer", "schedule", "weight_decay", "learning_rate")}
    assert mnist.Config(**given).optimizer == "sgd"


@pytest.mark.parametrize("seed", [0, 5])
def test_seeds_of_a_curve_begin_with_the_flag(seed, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(transfer_curve.transfer, "few", lambda splits, config: config.seed)
    row = {"test": {"accuracy": 1.0}, "steps": 1, "train_seconds": 0.0, "checkpoint": ""}
    monkeypatch.setattr(transfer_curve, "trained", lambda run, *rest: seen.append(run.seed) or row)
    config = transfer_curve.Config(per_class=(4,), seeds=2, seed=seed)
    transfer_curve.measured(config, transfer_curve.transfer.Config(), None, tmp_path, None)
    assert set(seen) == {seed, seed + 1}
