"""Membership inference and common corruptions as a user starts them, and their bad input; the data are invented."""

import json

import jax
import numpy as np
import pytest

import jaxcnn as jc
from experiments import attacking, certifying, continual, corruptions, membership, private_mnist, robust
from jaxcnn.core import files
from jaxcnn.methods import smoothing
from tests.experiments.test_video_experiments import blobs


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    return blobs(tmp_path_factory.mktemp("mnist"), 80, 20)


def test_membership(mnist, tmp_path):
    pytest.importorskip("dp_accounting")
    config = membership.Config(
        str(mnist), rows=60, networks=6, width=8, epochs=3, batch_size=8, private_epochs=1, delta=1e-2,
        workdir=str(tmp_path / "out"),
    )  # fmt: skip
    found = membership.main(config)
    assert json.loads((tmp_path / "out/membership.json").read_text()) == json.loads(files.to_json(found))
    assert found["overfit"]["epsilon"] is None and 0 < found["private"]["epsilon"] <= 3
    for kind in ("overfit", "private"):
        for one in found[kind]["attacks"].values():
            assert 0 <= one["auc_interval"][0] <= one["auc"] <= one["auc_interval"][1] <= 1


def test_batches_are_those_of_a_network(mnist):
    config = membership.Config(str(mnist), rows=60, batch_size=8, seed=1)
    inside = np.random.default_rng(0).random((4, 60)) < 0.5
    for hidden in (False, True):
        index, mask = membership.batches(config, inside, 5, hidden)
        assert index.shape == mask.shape and index.shape[:2] == (5, 4)
        for s in range(4):
            assert inside[s][index[:, s][mask[:, s] > 0]].all()
        sizes = mask.sum(-1)
        assert (sizes == 8).all() != hidden and abs(sizes.mean() - 8) < 3


def test_corruptions_of_a_run(mnist, tmp_path):
    splits = jc.data.idx(str(mnist))
    build = {
        "model": {"name": "mlp", "options": {"num_classes": 10, "widths": [4]}},
        "task": {"name": "classification", "options": {}}, "image": {"shape": [28, 28, 1], "dtype": "uint8"},
    }  # fmt: skip
    task = jc.runs.build(build)[1]
    variables, source = (
        task.init(jax.random.key(0), splits.train.example()),
        jc.runs.source("idx", {"path": str(mnist)}),
    )
    jc.save_run(tmp_path / "run", task, variables, splits, batch_size=8, build=build, source=source)
    place, only = str(tmp_path / "run"), ("gaussian_noise", "contrast")
    found = corruptions.main(corruptions.Config(place, baseline=place, rows=8, only=only))
    assert found["count"] == 8 and set(found["corrupted"]) == set(only)
    assert found["mean_corruption_error"]["mean"] == pytest.approx(1)
    assert files.read_json(tmp_path / "run/corruptions.json")["clean"] == found["clean"]
    with pytest.raises(jc.InputError, match="--rows -5: must be at least 1"):
        corruptions.main(corruptions.Config(place, rows=-5))
    with pytest.raises(jc.InputError, match="must classify images"):
        corruptions.measure(corruptions.Config(place), wrong_kind(tmp_path, build, splits), only)


def wrong_kind(folder, build, splits):
    """Write a run of a network that regresses."""
    build = build | {"task": {"name": "regression", "options": {}}}
    build["model"] = {"name": "mlp", "options": {"num_classes": 1, "widths": [4]}}
    task = jc.runs.build(build)[1]
    variables = task.init(jax.random.key(0), splits.train.example())
    jc.save_run(folder / "other", task, variables, splits, batch_size=8, build=build)
    return str(folder / "other")


def test_checks_of_a_network_say_what_they_saw():
    class Flags:
        epsilon = 0.1

    def accuracy(values):
        left = iter(values)
        return lambda attack, name: next(left)

    found = {"square": {"accuracy": 0.5}} | {name: {"accuracy": 0.4} for name in attacking.WHITE}
    good = attacking.checks(Flags, found, accuracy([0.6, 0.5, 0.45, 0.455, 0.0]))
    assert good["black_box_is_weaker"] and good["more_steps_are_stronger"] and good["unbounded_reaches_zero"]
    found["square"]["accuracy"] = 0.3
    bad = attacking.checks(Flags, found, accuracy([0.6, 0.5, 0.45, 0.5, 0.1]))
    assert not any(bad[k] for k in ("black_box_is_weaker", "more_steps_are_stronger", "unbounded_reaches_zero"))


def brightness_run(rows):
    """A run that tells bright images from dark ones, and data of which one label in ten is wrong."""
    task = jc.tasks.classification(jc.models.mlp(num_classes=2, widths=(2,)))
    image = np.full((rows, 8, 8, 1), 0.25, np.float32)
    image[1::2] = 0.75
    label = (np.arange(rows) % 2).astype(np.int32)
    label[::10] = 1 - label[::10]
    data = jc.data.Resident({"image": image, "label": label}, ("dark", "bright"))
    variables = task.init(jax.random.key(0), data.example())
    slope = np.stack([-np.ones(64), np.ones(64)], 1).astype(np.float32)
    params = variables["params"]  # each of the two hidden units is the logit of its class, where it is above 0
    params["hidden_0"] = {"kernel": slope, "bias": np.array([32.0, -32.0], np.float32)}
    params["logits"] = {"kernel": np.eye(2, dtype=np.float32), "bias": np.zeros(2, np.float32)}
    return jc.runs.TrainedRun({}, None, task, variables, 0), data


def test_certificates_of_a_run(capsys):
    """The smoothed answer never changes here, so each radius is that of all votes, and one row in ten is wrong."""
    config = robust.Config(certify=20, sigma=0.1, certify_samples=200, radii=(0.5, 0.0, 0.1))
    loaded, data = brightness_run(40)
    found = certifying.certified(config, loaded, data, 0.0)
    most = smoothing.certificate(0, 200, 200, 0.1, 1e-3).radius
    assert 0.1 < most < 0.5 and found["mean_radius"] == pytest.approx(most)
    wrong = jc.runs.limited(data, 20).arrays
    share = float(np.mean((np.asarray(wrong["image"])[:, 0, 0, 0] > 0.5) == np.asarray(wrong["label"])))
    assert [one["radius"] for one in found["radii"]] == [0.0, 0.1, 0.5] and 0 < share < 1
    assert [one["accuracy"] for one in found["radii"]] == pytest.approx([share, share, 0.0])
    low, high = found["radii"][0]["interval"]
    assert low < share < high and (found["count"], found["of"], found["abstained"]) == (20, 40, 0)
    said = capsys.readouterr().out
    assert "sigma 0.1 (trained without noise), 20 of 40 images" in said and "0.0 % at 0.5; abstained from 0" in said
    unsure = robust.Config(certify=4, sigma=4.0, certify_samples=20)
    assert certifying.certified(unsure, loaded, data, 0.25)["abstained"] == 4


def test_noise_of_validation_is_that_of_training():
    images = np.full((4, 32, 32, 1), 0.5, np.float32)
    given = np.asarray(certifying.noise(0.1)(None, images, None, jax.random.key(0)))
    trained = np.asarray(smoothing.gaussian_noise(0.1)(jax.random.key(1), {"image": images})["image"])
    assert np.std(given) == pytest.approx(0.1, rel=0.05) == pytest.approx(np.std(trained), rel=0.05)
    config = robust.settled(robust.Config(name="mnist", data="x", method="noise", ramp=0.0))
    seen = []

    def step(state, batch):
        seen.append(np.asarray(batch["image"]))
        return state, {}

    state = jc.init_state(
        jc.tasks.classification(jc.models.mlp(num_classes=2)),
        jc.optim.sgd(0.1),
        {"image": images, "label": np.zeros(4, np.int32)},
    )
    robust.wrap_of(config, 10)(step)(state, {"image": images})
    assert np.std(seen[0]) == pytest.approx(certifying.SIGMA, rel=0.1)


@pytest.mark.parametrize("method", robust.METHODS)
def test_a_row_that_is_wrong_anyway_does_not_resist(method):
    config = robust.settled(robust.Config(name="mnist", data="somewhere", method=method))
    task = robust.METHOD_OF[method](jc.tasks.classification(jc.models.mlp(num_classes=4, widths=(4,))), config)
    assert ("robust_accuracy" in task.metrics) == (method != "none")
    image = np.random.default_rng(0).random((6, 8, 8, 1), np.float32)
    batch = {"image": image, "label": np.arange(6, dtype=np.int32) % 4}
    variables = task.init(jax.random.key(0), batch)
    plain = np.asarray(attacking.resists(task, None)(variables, batch))
    held = np.asarray(attacking.resists(task, lambda f, x, y, key: x)(variables, batch))
    np.testing.assert_array_equal(plain, held)
    # an attack that shows another image that is right does not help
    right = np.asarray(attacking.resists(task, lambda f, x, y, key: 0 * x)(variables, batch))
    assert not (right & ~plain).any()


def test_attacks_of_other_names_draw_other_numbers():
    seen = []

    def attack(logits_of, images, labels, key):
        seen.append(jax.random.key_data(key).tolist())
        return images

    task = jc.tasks.classification(jc.models.mlp(num_classes=4, widths=(4,)))
    batch = {"image": np.zeros((2, 8, 8, 1), np.float32), "label": np.zeros(2, np.int32)}
    variables = task.init(jax.random.key(0), batch)
    for name in ("apgd_ce", "apgd_dlr", "apgd_ce"):
        attacking.resists(task, attack, name)(variables, batch)
    assert seen[0] == seen[2] != seen[1]


def test_more_targets_than_classes_are_refused_before_training(tmp_path):
    with pytest.raises(jc.InputError, match="--targets 10: must be less than the 10 classes"):
        robust.plan(robust.settled(robust.Config(data=str(blobs(tmp_path, 40, 20)), targets=10)))


@pytest.mark.parametrize(
    "wrong, line",
    [
        (lambda: robust.settled(robust.Config(name="svhn", data="x")), "NAME 'svhn'"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", method="free")), "--method 'free'"),
        (lambda: robust.settled(robust.Config(name="mnist")), "DATA: give the place"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", epsilon=8.0)), "--epsilon 8.0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", ramp=2.0)), "--ramp 2.0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", square_steps=0)), "--square-steps 0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", certify=-1)), "--certify -1"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", sigma=-0.5)), "--sigma -0.5"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", method="none", sigma=0.5)), "leave it out"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", radii=(0.5, -1.0))), "--radii 0.5 -1.0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", alpha=1.0)), "--alpha 1.0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", attack=False)), "--no-attack: leaves nothing"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", certify_samples=0)), "--certify-samples 0"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", checked=-5)), "--checked -5"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", widths=(4, 0))), "--widths 4 0"),
        (lambda: robust.settled(robust.Config(name="cifar10", data="x", hidden=-5)), "--hidden -5: only the network"),
        (lambda: robust.settled(robust.Config(name="mnist", data="x", hidden=-5)), "--hidden -5: must be at least 1"),
        (lambda: private_mnist.plan(private_mnist.Config()), "DATA: give the folder"),
        (lambda: private_mnist.spending(private_mnist.Config(delta=0.5), 160), "--delta 0.5: .* below 1 / 160"),
        (lambda: private_mnist.spending(private_mnist.Config(), 160), "--batch-size 2048: must be from 1 to the 160"),
        (lambda: private_mnist.spending(private_mnist.Config(epsilon=0.0, batch_size=9), 160), "--epsilon 0.0"),
        (lambda: membership.check(membership.Config("x", delta=0.5)), "--delta 0.5"),
        (lambda: membership.check(membership.Config("x", seed=-1)), "--seed -1"),
        (lambda: continual.check(continual.Config(kind="mnist", data="x", per_class=0)), "--per-class 0"),
        (
            lambda: continual.check(continual.Config(kind="mnist", data="x", method="lwf", per_task=1)),
            "--per-task 1: lwf",
        ),
        (lambda: private_mnist.plan(private_mnist.Config(data="x", clip=0.0)), "clip=0.0"),
        (lambda: membership.check(membership.Config("x", networks=5)), "--networks 5"),
        (lambda: membership.check(membership.Config("x", rows=60, batch_size=40)), "--batch-size 40"),
        (lambda: membership.check(membership.Config("x", fpr=2.0)), "--fpr 2.0"),
        (lambda: membership.check(membership.Config("x", epsilon=-1.0)), "--epsilon -1.0"),
        (lambda: membership.check(membership.Config("x", clip=0.0)), "clip=0.0"),
        (lambda: continual.check(continual.Config(kind="mnist", data="x", strength=-5.0)), "--strength -5.0"),
        (lambda: corruptions.main(corruptions.Config("x", only=("rain",))), "--only rain"),
        (lambda: corruptions.main(corruptions.Config("nowhere")), "not a run's folder"),
    ],
)
def test_bad_values_are_one_line(wrong, line):
    with pytest.raises(jc.InputError, match=line) as caught:
        wrong()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fgsm, pgd, collapsed",
    [
        ((0.43, 0.79, 0.94), (0.0, 0.37, 0.90), False),  # attacks grow at first
        ((0.50, 0.60, 0.95), (0.40, 0.45, 0.02), True),
        ((0.50, 0.95, 0.60), (0.40, 0.05, 0.45), True),  # and recovered
        ((0.90, 0.95, 0.99), (0.0, 0.01, 0.0), True),  # never resisted more than its one step
    ],
)
def test_catastrophic_overfitting_is_a_fall(tmp_path, fgsm, pgd, collapsed):
    lines = [{"split": "validation", "fgsm": a, "pgd": b} for a, b in zip(fgsm, pgd, strict=True)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [{"split": "train"}, *lines]))
    assert robust.overfitting(tmp_path)["collapsed"] == collapsed
