"""Shows which parts of an image decided its class: `python -m experiments.explain --checkpoint RUN IMAGE [IMAGE ...]`.

The figure has one row per image and one column per method. `--check` measures how far to trust the methods:
completeness, conservation, deletion and insertion against random orders, and how much a map changes with randomised
weights.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxcnn as jc
from experiments import command, settings
from experiments.explain_checks import Method, check
from jaxcnn import explain
from jaxcnn.cli import runtime
from jaxcnn.core.text import visible
from jaxcnn.data.folder import ENDINGS
from jaxcnn.runs.plots import new_figure
from jaxcnn.runs.single import pixels

log = logging.getLogger("jaxcnn")
# negative values are evidence against the class
SIGNED = (
    "integrated_gradients",
    "occlusion",
    "lrp_epsilon",
    "lrp_gamma",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Explain the predictions of a run's network."""

    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files, or folders of them."""
    checkpoint: str = ""
    """Folder of a run."""
    methods: tuple[str, ...] = ()
    """Methods to show, by default all that the network supports: gradient, smooth_grad, integrated_gradients,
    guided_backprop, grad_cam, grad_cam_plus_plus, occlusion, lrp_epsilon, lrp_gamma."""
    layer: str = ""
    """Layer for Grad-CAM: a name in the model's features; by default the last one with spatial axes."""
    target: str = ""
    """Class to explain; by default the predicted class of each image."""
    output: str = "explanations.png"
    """File for the figure."""
    check: bool = False
    """Print measurements over all images as JSON instead of drawing a figure."""
    seed: int = 0
    """Seed of the noise, the random orders and the randomised weights."""
    compilation_cache: str = ""
    """Folder for compiled programs, so that the next start is faster; by default in the user's cache, off for none."""


def methods(loaded: Any, layer: str, seed: int) -> dict[str, Method]:
    """Return a dict from name to method, for the network of a run.

    Args:
        loaded: the run.
        layer: layer for Grad-CAM; the last one with spatial axes if empty.
        seed: seed of the noise.

    """
    model, heat, key = loaded.model, explain.heat, jax.random.key(seed)
    shape, dtype = loaded.config["build"]["image"]["shape"], loaded.config["build"]["image"]["dtype"]
    ends = [np.full((1, *shape), value, dtype) for value in (0, 255 if dtype == "uint8" else 1)]
    bounds = tuple(explain.prepared(loaded, x) for x in ends)
    cam = {"layer": layer or None}

    def window(x):
        return max(min(x.shape[1:3]) // 6, 2)

    return {
        "gradient": lambda v, x, t: heat(explain.input_gradient(model, v, x, t), absolute=True),
        "smooth_grad": lambda v, x, t: heat(explain.smooth_grad(model, v, x, t, key=key, samples=16), absolute=True),
        "integrated_gradients": lambda v, x, t: heat(explain.integrated_gradients(model, v, x, t, steps=32).relevance),
        "guided_backprop": lambda v, x, t: heat(explain.guided_backprop(model, v, x, t), absolute=True),
        "grad_cam": lambda v, x, t: explain.grad_cam(model, v, x, t, **cam),
        "grad_cam_plus_plus": lambda v, x, t: explain.grad_cam_plus_plus(model, v, x, t, **cam),
        "occlusion": lambda v, x, t: explain.occlusion(model, v, x, t, window=window(x)),
        "lrp_epsilon": lambda v, x, t: heat(explain.lrp(model, v, x, t, epsilon=0.1).relevance),
        "lrp_gamma": lambda v, x, t: heat(explain.lrp(model, v, x, t, gamma=0.25, bounds=bounds).relevance),
    }


def usable(loaded: Any, config: Config, image: jax.Array) -> dict[str, Method]:
    """Return the requested methods, or all that the network supports, and log the others.

    Args:
        loaded: the run.
        config: the flags.
        image: images as the model takes them.

    Raises:
        InputError: a requested method is unknown, or the network does not support it.

    """
    known = methods(loaded, config.layer, config.seed)
    for name in config.methods:
        settings.one_of("--methods", name, known)
    found, said = {}, {}
    target = jnp.zeros(len(image), jnp.int32)
    for name in config.methods or known:
        try:
            jax.eval_shape(known[name], loaded.variables, image, target)
            found[name] = jax.jit(known[name])
        except jc.InputError as error:
            if config.methods or config.layer and name.startswith("grad_cam"):
                raise
            said.setdefault(str(error), []).append(name)
    for line, names in said.items():
        log.warning("without %s: %s", ", ".join(names), line)
    return found


def paths(images: Sequence[str]) -> list[pathlib.Path]:
    """Return the files, and those in folders, in order."""
    found = []
    for given in map(pathlib.Path, images):
        inside = sorted(p for p in given.rglob("*") if p.suffix.lower() in ENDINGS) if given.is_dir() else [given]
        if not inside:
            raise jc.InputError(f"{given}: no images in this folder; give another, or files")
        found += inside
    return found


def main(config: Config) -> Any:
    """Explain or check, as the flags say."""
    if not config.checkpoint or not config.images:
        raise jc.InputError("--checkpoint RUN and IMAGE: give the folder of a run and a picture")
    files = paths(config.images)
    loaded = jc.load_run(config.checkpoint)
    runtime.keep_programs(config.compilation_cache)
    classes = loaded.config["classes"]
    if not classes:
        raise jc.InputError(
            f"--checkpoint {config.checkpoint}: a run without classes, and only classes can be explained; "
            "give a different run"
        )
    if config.target:
        settings.one_of("--target", config.target, classes)
    raw = np.stack([pixels(loaded.config, pathlib.Path(path)) for path in files])
    image, head = explain.prepared(loaded, raw), loaded.config["build"]["task"]["options"].get("head", "softmax")
    found = usable(loaded, config, image)
    logits = jax.jit(lambda v, x: loaded.model.apply(v, x, train=False))(loaded.variables, image)
    probabilities = np.asarray(jc.tasks.probabilities(logits, head))
    predicted = probabilities.argmax(-1)
    shown = np.full(len(files), classes.index(config.target)) if config.target else predicted
    # with several labels, each has its own logit; a single logit is the evidence for class 1
    target = jnp.asarray(np.ones_like(shown) if logits.shape[-1] == len(classes) == 1 else shown, jnp.int32)
    if config.check:
        return check(loaded, config.seed, found, image, target)
    for path, row, k in zip(files, probabilities, predicted, strict=True):
        print(json.dumps({"image": str(path), "class": classes[k], "probability": round(float(row[k]), 6)}), flush=True)
    maps = {name: np.asarray(method(loaded.variables, image, target)) for name, method in found.items()}
    titles = [f"{short(classes[k])} {row[k]:.2f}" for row, k in zip(probabilities, predicted, strict=True)]
    if config.target:
        titles = [f"{title}\nmaps: {short(config.target)}" for title in titles]
    draw(config.output, raw, titles, maps)
    print(f"{config.output}: {', '.join(maps)}", flush=True)
    return maps


def short(name: str, most: int = 20) -> str:
    """Shorten the name of a class to fit above an image."""
    name = visible(name)
    return name if len(name) <= most else name[: most - 3] + "..."


def draw(path: str, raw: np.ndarray, titles: Sequence[str], maps: dict[str, np.ndarray]) -> None:
    """Draw one row per image and one column per method; each map has its own scale, and colour keys are below.

    Args:
        path: file for the figure.
        raw: images `[N, H, W, C]`.
        titles: class and probability of each image.
        maps: dict from method to maps `[N, H, W]`.

    """
    height = 2.0 * len(raw)
    figure = new_figure(max(1.7 * (len(maps) + 1), 4), height + 0.5)
    above, below = figure.subfigures(2, 1, height_ratios=(height, 0.5))
    panels, keys = above.subplots(len(raw), len(maps) + 1, squeeze=False), {}
    for i, row in enumerate(panels):
        row[0].imshow(raw[i].squeeze(), cmap="gray")
        row[0].set_title(titles[i], fontsize=8, parse_math=False)
        for panel, (name, found) in zip(row[1:], maps.items(), strict=True):
            keys[name in SIGNED] = overlay(panel, raw[i], found[i], name in SIGNED)
            panel.set_title(name.replace("_", " ") if i == 0 else "", fontsize=8)
        for panel in row:
            panel.set(xticks=[], yticks=[])
    for room, (signed, drawn) in zip(below.subplots(1, len(keys), squeeze=False)[0], keys.items(), strict=True):
        key = figure.colorbar(drawn, cax=room, orientation="horizontal")
        key.set_ticks(
            [-1, 0, 1] if signed else [0, 1],
            labels=["against the class", "", "for it"] if signed else ["nothing", "most"],
        )
        room.tick_params(labelsize=7)
    figure.savefig(pathlib.Path(path), dpi=120)


def overlay(panel: Any, picture: np.ndarray, found: np.ndarray, signed: bool) -> Any:
    """Draw a map over its image in grey; strong values are less transparent.

    Args:
        panel: Matplotlib axes.
        picture: image `[H, W, C]`.
        found: map `[H, W]`.
        signed: whether negative values are evidence against the class.

    Returns:
        The drawn image, for a colour key.

    """
    grey = picture[..., :3].mean(-1)
    share = np.clip(found / max(float(np.quantile(np.abs(found), 0.995)), 1e-12), -1, 1)
    colours = {"cmap": "RdBu_r", "vmin": -1} if signed else {"cmap": "magma", "vmin": 0}
    panel.imshow(grey, cmap="gray", alpha=0.6)
    place = (-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5)
    return panel.imshow(share, vmax=1, alpha=0.25 + 0.65 * np.abs(share), extent=place, **colours)


if __name__ == "__main__":
    command.run(main, Config, "explain")
