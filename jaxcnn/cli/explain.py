"""`jaxcnn explain RUN FILES`: draw a picture per file of what supports its class, or that of a pixel or a box."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np
import tyro

from jaxcnn import runs
from jaxcnn.cli import command, explain_texts, explain_time, flags, options, runtime
from jaxcnn.cli.predict import endings, input_files
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.folder import read_image
from jaxcnn.data.stored import shown_place
from jaxcnn.deploy.answers import described
from jaxcnn.explain import at_box, at_pixel, coarsest, prepared
from jaxcnn.explain.panels import explained
from jaxcnn.runs import plots, single
from jaxcnn.runs.described import reading
from jaxcnn.tasks import detected
from jaxcnn.tasks.figures import new_figure

NAME = "explain"


@dataclasses.dataclass(frozen=True)
class Explain:
    """Draw what supports the predicted class of each image, of one of its pixels or of a box, by several methods."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run."""
    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")] = ()
    """Images or sounds, or folders of them; for a run on texts, .txt files, or a .csv with a column of texts; for a run
    on series, a table with a series in each row."""
    text: tuple[str, ...] = ()
    """Texts to explain, for a run on texts."""
    label_column: str = ""
    """Column of labels in tables of series, which is left out: first, last or its name; by default there is none."""
    target: str = ""
    """The class to explain; by default the predicted class of each image, or of the pixel."""
    pixel: tuple[int, ...] = ()
    """Column and row of the pixel to explain, in segmentation; by default the middle of each image."""
    box: int = 1
    """Number of the box to explain, in detection; 1 has the best score."""
    output: str = ""
    """Folder of the pictures; by default explanations/ in the folder of the run."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Explain, and return the exit code."""
    return command.run(lambda: explain(options.parse(Explain, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def explain(config: Explain) -> list[pathlib.Path]:
    """Write the pictures, and return their paths."""
    if not config.run or not (config.files or config.text):
        raise InputError("RUN and FILES: give the folder of a run and files, as in jaxcnn explain RUN photo.jpg")
    runtime.keep_programs(config.compilation_cache)
    loaded = runs.load_run(config.run)
    classes = loaded.config["classes"]
    if not classes or loaded.config["build"] is None:
        raise InputError(f"{visible(config.run)}: this run has no classes to explain; give a run of a classifier")
    if config.target:
        flags.one_of("--target", config.target, classes)
    kind = _task(config, loaded)
    paths = input_files(config.files, endings(loaded.config))
    folder, made = pathlib.Path(config.output or pathlib.Path(config.run) / "explanations"), []
    folder.mkdir(parents=True, exist_ok=True)
    if {"audio", "series"} & set(loaded.config["build"].get("inputs", {})):
        return explain_time.explain(loaded, paths, config.target, folder, config.label_column)
    if "image" not in loaded.config["build"]:
        return explain_texts.explain(loaded, paths, config.text, config.target, folder)
    planned: list[pathlib.Path] = []
    for path in paths:
        planned.append(_free(folder, path.stem, planned))
    inputs = {os.path.realpath(path) for path in paths}
    if lost := [path for path in planned if os.path.realpath(path) in inputs]:
        line = f"{visible(lost[0].name)} would replace an input"
        raise InputError(f"--output {visible(folder)}: {line}; give another folder")
    for path in paths:
        image = single.pixels(loaded.config, path)[None]
        one = CHOOSE[kind](config, loaded, path, image)
        label, more = np.array([classes.index(one.name)], np.int32), {}
        if one.model is not None:
            more = {"model": one.model, "layer": coarsest(one.model, loaded.variables, prepared(loaded, image))}
        strips = explained(loaded, image, label, **more)
        made.append(_free(folder, path.stem, made))
        title = f"{path.name}: {one.name} {one.score:.3f}"
        if not plots.draw(made[-1], draw, title, strips, one.mark):
            raise InputError(f"{visible(made[-1])}: cannot be drawn or written; give a different --output")
        print(files.to_json(one.found | {"explained": one.name, "picture": str(made[-1])}), flush=True)
    return made


class One(NamedTuple):
    """What is explained of an image.

    Attributes:
        name: of the class.
        score: what the network gives it, 0..1.
        found: the prediction, for the line that is printed.
        model: of `at_pixel` or `at_box`; None for the run's own.
        mark: where the pixel or the box is, yx or yxyx in 0..1.

    """

    name: str
    score: float
    found: dict[str, Any]
    model: Any = None
    mark: tuple[float, ...] = ()


def _task(config: Explain, loaded: Any) -> str:
    """Return the kind of task; refuse flags that are for another."""
    name = loaded.config["build"]["task"]["name"]
    if config.pixel and name != "segmentation":
        raise InputError(f"--pixel {config.pixel}: a run of {name} has no classes of pixels; leave it out")
    if config.pixel and len(config.pixel) != 2:
        raise InputError(f"--pixel {config.pixel}: must be two numbers, column and row")
    if config.box != 1 and name != "detection":
        raise InputError(f"--box {config.box}: a run of {name} has no boxes; leave it out")
    if config.text and "text" not in loaded.config["build"].get("inputs", {}):
        raise InputError(f"--text {visible(config.text[0])[:40]!r}: the run is not on texts; give files")
    if config.label_column and "series" not in loaded.config["build"].get("inputs", {}):
        raise InputError(f"--label-column {visible(config.label_column)}: the run is not on series; leave it out")
    if name == "segmentation" and len(loaded.config["build"]["image"]["shape"]) == 4:
        raise InputError(f"{visible(config.run)}: a run on volumes; use jaxcnn.explain.at_pixel in Python")
    if config.box < 1:
        raise InputError(f"--box {config.box}: must be at least 1, the box with the best score")
    if config.target and name == "detection":
        raise InputError(f"--target {config.target}: a box is explained by its own class; leave it out")
    return name


def _image(config: Explain, loaded: Any, path: pathlib.Path, image: np.ndarray) -> One:
    outputs = np.asarray(loaded.task.predict(loaded.variables, {"image": image}))[0]
    found = described(loaded, str(path), outputs)
    name = config.target or max(found["probabilities"], key=found["probabilities"].get)
    return One(name, found["probabilities"][name], found)


def _pixel(config: Explain, loaded: Any, path: pathlib.Path, image: np.ndarray) -> One:
    classes = loaded.config["classes"]
    scores = np.asarray(loaded.task.predict(loaded.variables, {"image": image}))[0]
    sides = read_image(path, 3).shape[:2]
    place = config.pixel[::-1] or tuple(n // 2 for n in sides)
    try:
        at = shown_place(place, sides, scores.shape[:2], *reading(loaded.config))
    except InputError as error:
        raise InputError(f"--pixel: {visible(path)}: {error}") from error
    shares = np.asarray(jax.nn.softmax(scores[at]))
    name = config.target or classes[int(shares.argmax())]
    found = {"file": str(path), "pixel": list(place[::-1]), "class": classes[int(shares.argmax())]}
    mark = tuple((x + 0.5) / n for x, n in zip(at, scores.shape[:2], strict=True))
    return One(name, float(shares[classes.index(name)]), found, at_pixel(loaded.model, at), mark)


def _box(config: Explain, loaded: Any, path: pathlib.Path, image: np.ndarray) -> One:
    found = jax.tree.map(np.asarray, detected(loaded.task.predict(loaded.variables, {"image": image})))
    count, at = int((found["box_mask"][0] > 0).sum()), config.box - 1
    if at >= count:
        raise InputError(
            f"--box {config.box}: {visible(path)} has {count} boxes; "
            + (f"give 1 to {count}" if count else "leave the image out")
        )
    box, label = found["boxes"][:, at], found["labels"][:, at]
    name, score = loaded.config["classes"][int(label[0])], float(found["scores"][0, at])
    mark = tuple(map(float, box[0]))
    line = {"file": str(path), "box": config.box, "class": name, "score": round(score, 6)}
    return One(name, score, line, at_box(loaded.model, box, label), mark)


CHOOSE = {"classification": _image, "segmentation": _pixel, "detection": _box}


def _free(folder: pathlib.Path, stem: str, taken: Sequence[pathlib.Path]) -> pathlib.Path:
    """Return a name for a picture that no other image of this call uses."""
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path


def draw(title: str, strips: dict[str, np.ndarray], mark: tuple[float, ...] = ()) -> Any:
    """Draw the image and the maps side by side, with a mark at a pixel (yx in 0..1) or around a box (yxyx)."""
    height, width = strips["Images"].shape[:2]
    figure = new_figure(2.4 * len(strips), 3)
    panels = figure.subplots(1, len(strips), squeeze=False)[0]
    for panel, (name, strip) in zip(panels, strips.items(), strict=True):
        panel.imshow(strip)
        y, x = (np.array(mark[i::2]) * n - 0.5 for i, n in enumerate((height, width)))
        if len(mark) == 2:
            panel.plot(x, y, "+", color="lime", markersize=10)
        elif mark:
            panel.plot(x[[0, 1, 1, 0, 0]], y[[0, 0, 1, 1, 0]], color="lime", linewidth=1)
        panel.set_title(name.replace(" (", "\n("), fontsize=7)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(visible(title)[:80], fontsize=9, parse_math=False)
    return figure
