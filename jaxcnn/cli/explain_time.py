"""`jaxcnn explain` for runs on sounds and on series: a picture of what supports the class, over time."""

import itertools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.cli.predict import predicted
from jaxcnn.cli.predict_sounds import averaged, windows
from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.deploy.answers import described
from jaxcnn.explain.signals import OVER_TIME, series_maps, sound_mapper
from jaxcnn.runs import plots, single
from jaxcnn.tasks import probabilities
from jaxcnn.tasks.figures import new_figure

MOST = 32  # series that are drawn
Drawn = tuple[str, str, dict[str, Any], dict[str, np.ndarray]]  # file, title, line and pictures


def explain(
    loaded: Any, paths: Sequence[pathlib.Path], target: str, folder: pathlib.Path, label: str = ""
) -> list[pathlib.Path]:
    """Write a picture for each sound or series into a folder, print a line for each, and return the paths.

    Args:
        loaded: the run.
        paths: the files.
        target: the class to explain; empty for the predicted class of each.
        folder: folder of the pictures.
        label: column of labels in tables of series.

    Raises:
        InputError: a file cannot be read, or a picture cannot be written.

    """
    made: list[pathlib.Path] = []
    given = _sounds(loaded, paths, target) if "audio" in loaded.config["build"]["inputs"] else None
    for stem, title, line, strips in given or _series(loaded, paths, target, label):
        path, number = folder / f"{stem}.png", 1
        while path in made:
            number += 1
            path = folder / f"{stem}-{number}.png"
        if not plots.draw(path, draw, title, strips):
            raise InputError(f"{visible(path)}: cannot be drawn or written; give a different --output")
        made.append(path)
        print(files.to_json(line | {"picture": str(path)}), flush=True)
    return made


def _sounds(loaded: Any, paths: Sequence[pathlib.Path], target: str) -> Iterator[Drawn]:
    """Explain the window of each file that has the class most clearly."""
    classes, head = loaded.config["classes"], loaded.config["build"]["task"]["options"].get("head", "softmax")
    mapper = sound_mapper(loaded)
    for number, group in itertools.groupby(predicted(loaded, windows(loaded, paths), False), lambda pair: pair[0][0]):
        path, rows = paths[number], list(group)
        line = next(averaged(loaded, iter(rows)))
        name = target or line["class"]
        shares = np.asarray(probabilities(jnp.stack([logits for _, logits in rows]), head))[:, classes.index(name)]
        (_, _, start, end), best = rows[int(shares.argmax())][0], float(shares.max())
        row = next(row for (begun, _), row in single.sound_rows(loaded.config, path) if begun == start)
        strips = mapper(row["audio"], int(row["length"]), classes.index(name))
        line = {k: v for k, v in line.items() if k != "windows"}
        line |= {"explained": name, "start": round(start, 3), "end": round(end, 3)}
        yield path.stem, f"{path.name}, {start:.2f} to {end:.2f} s: {name} {best:.3f}", line, strips


def _series(loaded: Any, paths: Sequence[pathlib.Path], target: str, label: str) -> Iterator[Drawn]:
    """Explain each series of the files."""
    classes = loaded.config["classes"]
    rows = [pair for path in paths for pair in single.series_rows(loaded.config, path, label)]
    if len(rows) > MOST:
        raise InputError(f"{visible(paths[0])}: {len(rows):,} series; at most {MOST} are drawn: give fewer rows")
    batch = {key: np.stack([row[key] for _, row in rows]) for key in ("series", "length")}
    outputs = np.asarray(jax.jit(loaded.task.predict)(loaded.variables, batch))
    found = [described(loaded, name, one) for (name, _), one in zip(rows, outputs, strict=True)]
    chosen = [target or one["class"] for one in found]
    drawn = series_maps(loaded, batch["series"], batch["length"], np.array([classes.index(name) for name in chosen]))
    for one, name, picture in zip(found, chosen, drawn, strict=True):
        short = pathlib.Path(one["file"]).name
        title = f"{short}: {name} {one['probabilities'][name]:.3f}"
        yield short.replace(":", "-"), title, one | {"explained": name}, {OVER_TIME: picture}


def draw(title: str, strips: dict[str, np.ndarray]) -> Any:
    """Draw pictures below each other; time runs to the right, and frequency upwards."""
    figure = new_figure(6, 2.2 * len(strips) + 0.4)
    panels = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    for panel, (name, strip) in zip(panels, strips.items(), strict=True):
        panel.imshow(strip, aspect="auto")
        panel.set_title(name, fontsize=8)
        panel.set(xticks=[], yticks=[])
    figure.suptitle(visible(title)[:80], fontsize=9, parse_math=False)
    return figure
