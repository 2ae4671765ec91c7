"""From an uploaded file or a text to the answer, in the steps that `jaxcnn predict` takes."""

import base64
from typing import Any

from jaxcnn.core.files import Memory
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import drawing
from jaxcnn.data.image import head
from jaxcnn.data.image_file import TooLargeError
from jaxcnn.deploy import answers
from jaxcnn.deploy.outputs import Row
from jaxcnn.deploy.serving.limits import Limits, RefusedError
from jaxcnn.deploy.serving.loaded import Served
from jaxcnn.runs import single


def row_of(served: Served, thing: Memory | str, limits: Limits) -> tuple[Row, tuple[int, int]]:
    """Return the row of a file or a text, and the height and width of an image as a viewer shows it.

    Raises:
        RefusedError: it is too large (413), or cannot be read (422).

    """
    try:
        if isinstance(thing, str):
            return single.text_row(served.run.config, thing), (0, 0)
        sides = head(thing).size
        if sides[0] * sides[1] > limits.pixels:
            raise RefusedError(
                413, f"{visible(thing)}: {sides[1]} x {sides[0]} pixels; at most {limits.pixels:,} are read"
            )
        return single.row_of(served.run.config, thing), sides
    except TooLargeError as error:
        raise RefusedError(413, f"{visible(thing)}: more than the {limits.pixels:,} pixels that are read") from error
    except InputError as error:
        raise RefusedError(422, visible(error)) from error


def answer(
    served: Served, thing: Memory | str, outputs: Any, sides: tuple[int, int], least_score: float = answers.LEAST_SCORE
) -> dict[str, Any]:
    """Return the prediction for one row as plain values.

    Args:
        served: the run.
        thing: the file or the text.
        outputs: of the network for it.
        sides: height and width of an image.
        least_score: of a box.

    Raises:
        RefusedError: the outputs are not finite; 503, as another run may answer.

    """
    name = visible(thing)
    try:
        if served.task == "segmentation":
            found = answers.mask_of(served.run, name, outputs, sides)
            colours = drawing.palette(len(served.run.config["classes"]))
            mask = base64.b64encode(drawing.indexed_png(found.mask, colours)).decode()
            return {"file": name, "size": list(sides), "mask": mask, "shares": found.shares}
        if served.task == "detection":
            one = answers.objects_of(served.run, name, outputs, sides, least_score)
            return {"file": name, "size": list(sides), "objects": one.objects}
        return answers.described(served.run, name, outputs)
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
    if served.field == "image":
        shape = config["build"]["image"]["shape"]
        found |= {"shape": shape, "draw": shape[0] == shape[1] <= 64 and shape[2] == 1}
    if served.task == "segmentation":
        found["colours"] = drawing.palette(len(classes)).tolist()
    return found
