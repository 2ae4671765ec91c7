"""Checks of explanations, looks into a network, and the commands that show both."""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from PIL import Image
from sklearn.linear_model import Ridge

import jaxcnn as jc
from experiments import command as commands
from experiments import explain as command
from experiments import image_processing
from jaxcnn import InputError, explain
from jaxcnn.explain.panels import explained
from jaxcnn.models import MODELS, ResNet
from tests.explain.test_explain import Hidden, Tiny, drawn

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "run-format-2"


@pytest.fixture(scope="module")
def tiny():
    model = Tiny()
    return model, *drawn(model, (2, 6, 7, 2))


def test_deletion_and_insertion_by_loops(tiny, rng):
    model, variables, image = tiny
    maps = rng.normal(size=(2, 6, 7)).astype(np.float32)
    found = jax.jit(lambda m: explain.deletion_insertion(model, variables, image, m, 1, baseline=0.5, steps=4))(maps)
    apply = jax.jit(lambda x: jax.nn.softmax(model.apply(variables, x, train=False))[:, 1])
    for i in range(2):
        order = np.argsort(-maps[i].ravel())
        for k, count in enumerate((0, 10, 21, 32, 42)):  # of 42 pixels, halves rounded to even
            first = np.zeros(42, bool)
            first[order[:count]] = True
            first = first.reshape(6, 7, 1)
            without, alone = np.where(first, 0.5, image[i]), np.where(first, image[i], 0.5)
            np.testing.assert_allclose(found.deleted[k, i], apply(without[None])[0], rtol=1e-4)
            np.testing.assert_allclose(found.inserted[k, i], apply(alone[None])[0], rtol=1e-4)
    np.testing.assert_allclose(found.deletion, np.trapezoid(found.deleted, dx=0.25, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.insertion, np.trapezoid(found.inserted, dx=0.25, axis=0), rtol=1e-5)


def test_what_matters_is_found_to_matter():
    """A linear network that sees one corner: the map that says so beats one that says the opposite."""
    model = Hidden()
    variables, image = drawn(model, (4, 4, 4, 1))
    mask = np.zeros((4, 4), np.float32)
    mask[:2, :2] = 1
    variables["params"]["hidden"]["kernel"] *= mask.ravel()[:, None]
    maps = jnp.broadcast_to(mask, (4, 4, 4))
    good, bad = map(jax.jit(lambda m: explain.deletion_insertion(model, variables, image, m, steps=4)), (maps, -maps))
    assert (
        np.asarray(good.deleted[1:]) == np.asarray(good.deleted[-1:])
    ).all() and good.deletion.mean() < bad.deletion.mean()
    assert (
        np.asarray(bad.deleted[:4]) == np.asarray(bad.deleted[:1])
    ).all() and good.insertion.mean() > bad.insertion.mean()


def test_blur_equals_scipy(rng):
    x = rng.normal(size=(2, 12, 9, 3)).astype(np.float32)
    expected = scipy.ndimage.gaussian_filter(x, (0, 1.5, 1.5, 0), mode="nearest", radius=(0, 4, 4, 0))
    np.testing.assert_allclose(explain.blurred(jnp.asarray(x), 1.5), expected, atol=1e-5)


def test_rank_correlation_equals_scipy(rng):
    a, b = rng.normal(size=(3, 5, 4)), rng.integers(0, 3, (3, 5, 4))
    expected = [scipy.stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(explain.rank_correlation(a, b), expected, rtol=1e-10)
    assert np.isnan(explain.rank_correlation(a, np.ones_like(a))).all()


def test_randomisation_goes_down_from_the_head():
    model = ResNet(3, (1, 1), False, True, width=4)
    variables, image = drawn(model, (2, 8, 8, 3))
    parts = ["logits", "stages_1_0", "stages_0_0", "stem"]
    assert explain.layers_from_head(model, variables, image) == parts
    seen = []

    def gradient(v):
        seen.append(v)
        return jit(v)

    jit = jax.jit(lambda v: explain.input_gradient(model, v, image, 1))
    found = explain.randomised(model, variables, image, gradient, key=jax.random.key(0))
    assert list(found) == parts and all(x.shape == (2,) and (np.abs(x) < 0.9).all() for x in found.values())
    same = lambda a, b, name: all(
        jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a["params"][name], b["params"][name]))
    )
    assert seen[0] is variables
    for k, v in enumerate(seen[1:], 1):  # k parts are new, the others as they were
        assert [same(v, variables, name) for name in parts] == [i >= k for i in range(4)]
    assert float(jnp.abs(seen[2]["batch_stats"]["stages_1_0"]["conv1"]["norm"]["mean"]).max()) == 0
    deaf = explain.randomised(
        model, variables, image, lambda v: image, key=jax.random.key(0), layers=["logits", "stem"]
    )
    assert [x.tolist() for x in deaf.values()] == [[1, 1], [1, 1]]


def test_filters_and_their_grid(tiny):
    model, variables, image = tiny
    found = explain.filters(model, variables, image)
    np.testing.assert_array_equal(found, np.moveaxis(variables["params"]["stem"]["conv"]["kernel"], -1, 0))
    hidden = Hidden()
    weights, picture = drawn(hidden, (1, 3, 4, 2))
    templates = explain.filters(hidden, weights, picture)
    np.testing.assert_allclose(
        (templates[2] * picture[0]).sum(), picture.reshape(-1) @ weights["params"]["hidden"]["kernel"][:, 2], rtol=1e-4
    )
    picture = explain.grid(np.stack([np.eye(2), 3 * np.eye(2), np.zeros((2, 2))]), columns=2)
    np.testing.assert_array_equal(
        picture, [[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    )
    assert explain.grid(np.zeros((5, 4, 3, 3))).shape == (2 * 5 - 1, 3 * 4 - 1, 3)
    assert explain.feature_maps(model, variables, image)["stem"].shape == (2, 6, 7, 4)


def test_images_that_a_unit_likes(tiny):
    model, variables, image = tiny
    raise_ = jax.jit(
        lambda key, unit, layer: explain.maximise(model, variables, (6, 7, 2), unit, key=key, layer=layer, steps=40),
        static_argnums=(1, 2),
    )
    for unit, layer in ((2, None), (1, "stem")):
        found = raise_(jax.random.key(0), unit, layer)
        seen = lambda x, unit=unit, layer=layer: (
            model.apply(variables, x, train=False)[:, unit] if layer is None
            else model.apply(variables, x, train=False, method="features")["stem"][..., unit].mean((1, 2))
        )  # fmt: skip
        assert (
            found.shape == (6, 7, 2)
            and seen(found[None])[0] > seen(image).max() - 0.5
            and seen(found[None])[0] > seen(0 * image)[0] + 0.3
        )
    with pytest.raises(InputError, match="unit=4: must be from 0 to 3, the channels of stem"):
        explain.maximise(model, variables, (6, 7, 2), 4, key=jax.random.key(0), layer="stem")
    with pytest.raises(InputError, match="layer='top': Tiny has no such layer; it has stem"):
        explain.maximise(model, variables, (6, 7, 2), 0, key=jax.random.key(0), layer="top")


def test_linear_probe_equals_scikit_learn(rng):
    label = rng.integers(0, 3, 90)
    wide = rng.normal(size=(90, 120)) + 0.6 * rng.normal(size=(3, 120))[label]
    layers = {"narrow": wide[:, :7] * 5 + 2, "wide": wide, "noise": rng.normal(size=(90, 4))}
    cut = lambda part: {name: x[part] for name, x in layers.items()}
    train, test = slice(0, 60), slice(60, 90)
    found = explain.linear_probe(cut(train), label[train], cut(test), label[test], ridge=0.1)
    for name, x in layers.items():
        mean, deviation = x[train].mean(0), x[train].std(0)
        ridge = Ridge(alpha=0.1 * 60).fit((x[train] - mean) / deviation, np.eye(3)[label[train]])
        assert found[name] == pytest.approx(
            (ridge.predict((x[test] - mean) / deviation).argmax(1) == label[test]).mean()
        )
    assert found["wide"] > 0.8 > 0.6 > found["noise"]
    with pytest.raises(InputError, match="narrow: 60 and 30 rows for 60 and 5 labels"):
        explain.linear_probe(cut(train), label[train], cut(test), label[:5])


def test_pooled_features(tiny):
    model, variables, image = tiny
    found = explain.pooled_features(model, variables, image)
    stem = model.apply(variables, image, train=False, method="features")["stem"]
    assert list(found) == ["pixels", "stem"] and found["pixels"].shape == (2, 84)
    np.testing.assert_allclose(found["stem"], stem.mean((1, 2)), rtol=1e-5)


@pytest.fixture
def picture(tmp_path, rng):
    path = tmp_path / "one.png"
    Image.fromarray(rng.integers(0, 255, (14, 14), dtype=np.uint8)).save(path)
    return path


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def convolutional(monkeypatch):
    """What `load_run` would give of a run of a small network."""
    model = MODELS["cnn"](2, widths=(4, 4))
    variables, _ = drawn(model, (1, 14, 14, 1))
    task = {"name": "classification", "options": {"mean": [0.4], "std": [0.3]}}
    build = {"model": {}, "task": task, "image": {"shape": [14, 14, 1], "dtype": "uint8"}}
    loaded = jc.runs.TrainedRun(
        {"build": build, "classes": ["ant", "bee"]}, model, jc.tasks.classification(model), variables, 1
    )
    monkeypatch.setattr(jc, "load_run", lambda path: loaded)
    return loaded


def test_the_picture(picture, convolutional, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out") / "out.png"
    chosen = ("gradient", "grad_cam", "lrp_gamma")
    config = {
        "images": (str(picture), str(picture.parent)),
        "checkpoint": "run",
        "output": str(out),
        "compilation_cache": "off",
    }
    maps = command.main(command.Config(**config, methods=chosen))
    line, again, last = capsys.readouterr().out.splitlines()
    image = explain.prepared(convolutional, opened(picture)[None, :, :, None])
    np.testing.assert_allclose(image, (opened(picture)[None, :, :, None] / 255 - 0.4) / 0.3, rtol=1e-4, atol=1e-6)
    probabilities = jax.nn.softmax(convolutional.model.apply(convolutional.variables, image, train=False))[0]
    assert json.loads(line) == {"image": str(picture), "class": ["ant", "bee"][int(probabilities.argmax())]} | {
        "probability": pytest.approx(float(probabilities.max()), abs=1e-4)
    }
    assert line == again and last == f"{out}: gradient, grad_cam, lrp_gamma"
    assert opened(out).shape[1] > 500 and {m.shape for m in maps.values()} == {(2, 14, 14)}
    expected = explain.grad_cam(convolutional.model, convolutional.variables, image, int(probabilities.argmax()))
    np.testing.assert_allclose(maps["grad_cam"][0], expected[0], rtol=1e-3, atol=1e-5)
    other = command.main(
        command.Config(**config, methods=("gradient",), target=["bee", "ant"][int(probabilities.argmax())])
    )
    assert np.abs(other["gradient"] - maps["gradient"]).max() > 1e-4


@pytest.fixture
def sigmoid(convolutional, monkeypatch):
    """The same with one logit, which takes the picture for neither class for certain."""
    model = MODELS["cnn"](1, widths=(4, 4))
    variables, _ = drawn(model, (1, 14, 14, 1))
    build = {**convolutional.config["build"], "task": {"options": {"mean": [0.4], "std": [0.3], "head": "sigmoid"}}}
    loaded = convolutional._replace(
        config={"build": build, "classes": ["ant $", "bee"]}, model=model, variables=variables
    )
    monkeypatch.setattr(jc, "load_run", lambda path: loaded)
    return loaded


def test_one_logit_has_a_map_for_either_class(picture, sigmoid, tmp_path_factory, capsys):
    out = tmp_path_factory.mktemp("out") / "out.png"
    config = {"images": (str(picture),), "checkpoint": "run", "output": str(out), "compilation_cache": "off"}
    chosen = ("integrated_gradients", "grad_cam")
    ant, bee, default = (
        command.main(command.Config(**config, methods=chosen, target=target)) for target in ("ant $", "bee", "")
    )
    signed = "integrated_gradients"
    np.testing.assert_allclose(ant[signed], -bee[signed], rtol=1e-4, atol=1e-7)
    assert np.abs(ant[signed]).max() > 1e-4 and ant["grad_cam"].max() + bee["grad_cam"].max() > 0
    said = json.loads(capsys.readouterr().out.splitlines()[-2])["class"]
    np.testing.assert_array_equal(default[signed], {"ant $": ant, "bee": bee}[said][signed])
    assert opened(out).shape[0] > 250  # with the colour keys


def test_a_strip_shows_the_image_below_the_map_and_the_key(picture, sigmoid):
    images = np.stack([opened(picture)[:, :, None]] * 2)
    found = explained(sigmoid, images, np.array([0, 1]))
    plain, shown = found["Images"], np.int32(found["Integrated gradients (red for, blue against)"])
    height = len(plain)
    left, right = shown[:height, :height], shown[:height, -height:]
    red, blue = lambda x: x[..., 0] > x[..., 2] + 40, lambda x: x[..., 2] > x[..., 0] + 40
    assert (
        red(left).any() and blue(left).any() and (red(left) == blue(right)).all() and (blue(left) == red(right)).all()
    )
    pale = ~(red(left) | blue(left))
    assert np.corrcoef(left[pale].mean(-1), plain[:, :height][pale].mean(-1))[0, 1] > 0.7  # the image shows through
    assert shown[-1, 0].tolist() == [0, 0, 255] and shown[-1, -1].tolist() == [255, 0, 0]


@pytest.mark.slow
def test_the_figures(picture, convolutional, capsys):
    config = command.Config(
        images=(str(picture),),
        checkpoint="run",
        check=True,
        compilation_cache="off",
        methods=("integrated_gradients", "lrp_epsilon"),
    )
    found = command.main(config)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == found
    assert all(0 < error < 0.05 for error in found["completeness_256_steps"].values())
    assert found["conservation_zero"]["residual"] < 1e-3 > found["conservation_epsilon"]["residual"]
    assert found["conservation_epsilon"]["absorbed"] > 1e-3 > found["conservation_zero"]["absorbed"]
    assert set(found["areas"]) == {"integrated_gradients", "lrp_epsilon", "random", "random_patches"}
    assert all(0 < x < 1 for areas in found["areas"].values() for x in areas.values())
    assert list(found["randomisation"]["lrp_epsilon"]) == ["logits", "stages_0", "stem"]


def run(monkeypatch, capsys, module, name, *flags):
    """Exit code, and what was said."""
    monkeypatch.setattr(sys, "argv", [f"experiments.{name}", *map(str, flags)])
    with pytest.raises(SystemExit) as caught:
        commands.run(module.main, module.Config, name)
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, line",
    [
        (["{run}"], "explain: --checkpoint RUN and IMAGE: give the folder of a run and a picture"),
        (["{image}", "--checkpoint", "nowhere"], "explain: nowhere: not a run's folder (no config.json in it)"),
        (
            ["{image}", "--checkpoint", "{run}", "--methods", "grad_cam"],
            "explain: MLP has no spatial features (stage1 have no height",
        ),
        (
            ["{image}", "--checkpoint", "{run}", "--layer", "stage7"],
            "explain: MLP has no spatial features (stage1 have no height",
        ),
        (
            ["{image}", "--checkpoint", "{run}", "--methods", "grad"],
            "explain: --methods 'grad': unknown; did you mean 'gradient'?",
        ),
        (
            ["{image}", "--checkpoint", "{run}", "--target", "night"],
            "explain: --target 'night': unknown; did you mean 'light'?",
        ),
        (["{run}/config.json", "--checkpoint", "{run}"], "not a readable image"),
        (["{run}", "--checkpoint", "{run}"], "no images in this folder"),
    ],
    ids=["nothing", "run", "spatial", "layer", "method", "target", "image", "folder"],
)
def test_one_line_for_what_is_wrong(picture, monkeypatch, capsys, flags, line):
    code, err = run(monkeypatch, capsys, command, "explain", *(f.format(image=picture, run=FIXTURE) for f in flags))
    assert code == 2 and line in err and err.count("\n") == 1


def test_what_a_network_has_not_is_said(monkeypatch):
    said = []
    monkeypatch.setattr(command.log, "warning", lambda form, *values: said.append(form % values))
    loaded = jc.load_run(FIXTURE)
    found = command.usable(loaded, command.Config(), jnp.zeros((1, 4, 4, 1)))
    assert set(found) == set(command.methods(loaded, "", 0)) - {"grad_cam", "grad_cam_plus_plus"}
    (line,) = said
    assert line.startswith(
        "without grad_cam, grad_cam_plus_plus: MLP has no spatial features (stage1 have no height and width)"
    )


def reference(grey, kernel):
    """The same with loops over a padded array."""
    wide, out = np.pad(grey, 1, mode="edge"), np.zeros_like(grey)
    for i in range(3):
        for j in range(3):
            out += kernel[i][j] * wide[i : i + grey.shape[0], j : j + grey.shape[1]]
    return out


def test_image_processing_equals_numpy(tmp_path, rng, capsys):
    path, out = tmp_path / "in.png", tmp_path / "out.png"
    colour = rng.integers(0, 255, (21, 34, 3), dtype=np.uint8)
    Image.fromarray(colour).save(path)
    found = image_processing.main(image_processing.Config(image=str(path), output=str(out), pool=3))
    grey = (colour @ np.array([0.299, 0.587, 0.114])) / 255
    kernels = image_processing.KERNELS
    assert list(found) == ["sharpen", "blur", "laplacian", "sobel_x", "sobel_y", "sobel"] and len(opened(out)) > 1000
    for name, shown in found.items():
        np.testing.assert_allclose(shown["grey"], grey, atol=0.51 / 255)
        exact = shown["grey"].astype(np.float64)
        parts = [reference(exact, kernels[k]) for k in ([name] if name in kernels else ["sobel_x", "sobel_y"])]
        y = parts[0] if len(parts) == 1 else np.sqrt(parts[0] ** 2 + parts[1] ** 2)
        np.testing.assert_allclose(shown["convolution"], y, atol=1e-6)
        np.testing.assert_allclose(shown["ReLU"], np.maximum(y, 0), atol=1e-6)
        pooled = np.maximum(y, 0)[:21, :33].reshape(7, 3, 11, 3).max((1, 3))
        np.testing.assert_allclose(shown["max pooling"], pooled, atol=1e-6)
    assert [np.sum(kernels[k]) for k in ("sharpen", "blur", "laplacian", "sobel_x")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    "flags, line",
    [
        ([], "image_processing: IMAGE: give a picture"),
        (["{image}", "--kernels", "sobe"], "image_processing: --kernels 'sobe': unknown; did you mean 'sobel'?"),
        (["{image}", "--pool", "0"], "needs a kernel, and windows of at least 1"),
        (["{image}", "--pool", "15"], "image_processing: spatial size (14, 14)"),
        (["{image}.txt"], "not a readable image"),
    ],
    ids=["nothing", "kernel", "pool", "large", "image"],
)
def test_one_line_for_a_bad_picture(picture, monkeypatch, capsys, flags, line):
    code, err = run(
        monkeypatch, capsys, image_processing, "image_processing", *(f.format(image=picture) for f in flags)
    )
    assert code == 2 and line in err and err.count("\n") == 1
