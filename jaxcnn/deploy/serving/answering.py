"""From an uploaded file or a text to the answer, in the steps that `jaxcnn predict` takes."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxcnn.core.files import Memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import drawing
from jaxcnn.data.image import head
from jaxcnn.data.image_file import TooLargeError
from jaxcnn.data.sound_file import read_head
from jaxcnn.deploy import answers
from jaxcnn.deploy.outputs import Row
from jaxcnn.deploy.serving.limits import Limits, RefusedError
from jaxcnn.deploy.serving.loaded import Served
from jaxcnn.runs import single


class Thing(NamedTuple):
    """What is asked about, as the network gets it.

    Attributes:
        rows: one, or the windows of a sound.
        sides: height and width of an image as a viewer shows it.
        places: seconds of the start and the end of each window.

    """

    rows: list[Row]
    sides: tuple[int, int] = (0, 0)
    places: tuple[tuple[float, float], ...] = ()


def thing_of(served: Served, thing: Memory | str, limits: Limits) -> Thing:
    """Return what a file or a text is for the network.

    Raises:
        RefusedError: it is too large (413), or cannot be read (422).

    """
    try:
        if isinstance(thing, str):
            return Thing([single.text_row(served.run.config, thing)])
        if served.field == "audio":
            return _sound(served, thing, limits)
        sides = head(thing).size
        if sides[0] * sides[1] > limits.pixels:
            raise RefusedError(
                413, f"{visible(thing)}: {sides[1]} x {sides[0]} pixels; at most {limits.pixels:,} are read"
            )
        return Thing([single.row_of(served.run.config, thing)], sides)
    except TooLargeError as error:
        raise RefusedError(413, f"{visible(thing)}: more than the {limits.pixels:,} pixels that are read") from error
    except InputError as error:
        raise RefusedError(422, visible(error)) from error


def _sound(served: Served, thing: Memory, limits: Limits) -> Thing:
    head = read_head(thing)
    if head.frames > limits.sound_seconds * head.rate:
        seconds = f"{head.frames / head.rate:,.1f} seconds"
        raise RefusedError(413, f"{visible(thing)}: {seconds}; at most {limits.sound_seconds:g} are read")
    places, rows = zip(*single.sound_rows(served.run.config, thing), strict=True)
    return Thing(list(rows), places=places)


def answer(
    served: Served, name: str, read: Thing, outputs: Sequence[Any], least_score: float = answers.LEAST_SCORE
) -> dict[str, Any]:
    """Return the prediction for what was asked about as plain values.

    Args:
        served: the run.
        name: of the file, or the text.
        read: what it is for the network.
        outputs: of the network for each of its rows.
        least_score: of a box.

    Raises:
        RefusedError: the outputs are not finite; 503, as another run may answer.

    """
    name, sides = visible(name), read.sides
    try:
        if read.places:
            return answers.sound_described(served.run, name, read.places, outputs)
        if served.task == "segmentation":
            found = answers.mask_of(served.run, name, outputs[0], sides)
            colours = drawing.palette(len(served.run.config["classes"]))
            mask = base64.b64encode(drawing.indexed_png(found.mask, colours)).decode()
            return {"file": name, "size": list(sides), "mask": mask, "shares": found.shares}
        if served.task == "detection":
            one = answers.objects_of(served.run, name, outputs[0], sides, least_score)
            return {"file": name, "size": list(sides), "objects": one.objects}
        return answers.described(served.run, name, outputs[0])
    except InputError as error:
        raise RefusedError(503, visible(error)) from error


def about(served: Served, limits: Limits) -> dict[str, Any]:
    """Return what a client may want to know of the run before it asks."""
    config = served.run.config
    classes = list(config["classes"] or ())
    found: dict[str, Any] = {
        "run": served.name, "step": served.run.step, "task": served.task, "takes": served.field, "classes": classes,
        "explains": served.explain is not None,
        "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "rows": limits.rows, "seconds": limits.seconds},
    }  # fmt: skip
    if served.field == "audio":
        found["limits"]["sound_seconds"] = limits.sound_seconds
    if served.field == "image":
        shape = config["build"]["image"]["shape"]
        found |= {"shape": shape, "draw": shape[0] == shape[1] <= 64 and shape[2] == 1}
    if served.task == "segmentation":
        found["colours"] = drawing.palette(len(classes)).tolist()
    return found
