"""`jaxcnn explain RUN FILES`: draw a picture per file of what supports its predicted class."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import tyro

from jaxcnn import runs
from jaxcnn.cli import command, flags, options, runtime
from jaxcnn.cli.predict import described, image_files, pixels
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.explain.panels import explained
from jaxcnn.runs import plots
from jaxcnn.tasks.figures import new_figure

NAME = "explain"


@dataclasses.dataclass(frozen=True)
class Explain:
    """Draw what supports the predicted class of each image, by several methods."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")] = ""
    """Folder of a run."""
    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FILES")] = ()
    """Images, or folders of them."""
    target: str = ""
    """The class to explain; by default the predicted class of each image."""
    output: str = ""
    """Folder of the pictures; by default explanations/ in the folder of the run."""
    compilation_cache: str = ""
    """Folder for compiled programs; by default the user's cache folder, off for none."""


def main(arguments: Sequence[str]) -> int:
    """Explain, and return the exit code."""
    return command.run(lambda: explain(options.parse(Explain, NAME, arguments)), f"jaxcnn {NAME}", options.WIDTH)


def explain(config: Explain) -> list[pathlib.Path]:
    """Write the pictures, and return their paths."""
    if not config.run or not config.files:
        raise InputError("RUN and FILES: give the folder of a run and images, as in jaxcnn explain RUN photo.jpg")
    runtime.keep_programs(config.compilation_cache)
    loaded = runs.load_run(config.run)
    classes = loaded.config["classes"]
    if not classes or loaded.config["build"] is None:
        raise InputError(f"{visible(config.run)}: this run has no classes to explain; give a run of a classifier")
    if config.target:
        flags.one_of("--target", config.target, classes)
    paths = image_files(config.files)
    folder, made = pathlib.Path(config.output or pathlib.Path(config.run) / "explanations"), []
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        image = pixels(loaded, path)
        outputs = np.asarray(loaded.task.predict(loaded.variables, {"image": image[None]}))[0]
        found = described(loaded, str(path), outputs)
        chosen = config.target or max(found["probabilities"], key=found["probabilities"].get)
        strips = explained(loaded, image[None], np.array([classes.index(chosen)], np.int32))
        made.append(_free(folder, path.stem, made))
        title = f"{path.name}: {chosen} {found['probabilities'][chosen]:.3f}"
        if not plots.draw(made[-1], draw, title, strips):
            raise InputError(f"{visible(made[-1])}: cannot be drawn or written; give a different --output")
        print(files.to_json(found | {"explained": chosen, "picture": str(made[-1])}), flush=True)
    return made


def _free(folder: pathlib.Path, stem: str, taken: Sequence[pathlib.Path]) -> pathlib.Path:
    """Return a name for a picture that no other image of this call uses."""
    path, number = folder / f"{stem}.png", 1
    while path in taken:
        number += 1
        path = folder / f"{stem}-{number}.png"
    return path


def draw(title: str, strips: dict[str, np.ndarray]) -> Any:
    """Draw the image and the maps side by side."""
    figure = new_figure(2.4 * len(strips), 3)
    panels = figure.subplots(1, len(strips), squeeze=False)[0]
    for panel, (name, strip) in zip(panels, strips.items(), strict=True):
        panel.imshow(strip)
        panel.set_title(name.replace(" (", "\n("), fontsize=7)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(visible(title)[:80], fontsize=9, parse_math=False)
    return figure
