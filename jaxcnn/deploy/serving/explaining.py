"""What speaks for the class of one row: a map over an image, or the words of a text; compiled once."""

import base64
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.data import drawing, words
from jaxcnn.deploy.outputs import Row
from jaxcnn.explain import prepared
from jaxcnn.explain.erasure import log_odds
from jaxcnn.explain.panels import METHODS, keyed, overlaid, strip
from jaxcnn.runs.single import text_options

Explain = Callable[[Row, int, str], dict[str, Any]]
WORDS = 64  # of a text that are looked at


def explainer(run: Any, field: str) -> Explain | None:
    """Return a function that explains a class of one row.

    Args:
        run: result of `load_run`.
        field: `"image"`, `"audio"` or `"text"`.

    Returns:
        `(row, class from 0, the text) -> answer`: the name of the method and a PNG in base64, or the words with the
        change of the class's log-odds when each is left out. None if no method suits the run.

    """
    sounds = field == "audio"
    if sounds or run.config["build"]["task"]["name"] != "classification" or not run.config["classes"]:
        return None
    return _image(run) if field == "image" else _text(run)


def _image(run: Any) -> Explain | None:
    """Explain an image by the first method that works for the network."""
    shape = run.config["build"]["image"]["shape"]
    only = run.config["build"]["task"]["options"].get("head") == "multilabel" and len(run.config["classes"]) == 1
    example = prepared(run, np.zeros((1, *shape), run.config["build"]["image"]["dtype"]))
    for title, method in METHODS.items():

        def maps(variables: Any, image: Any, target: Any, method: Callable[..., Any] = method) -> Any:
            return method(run.model, variables, image, target, layer=None)

        compiled = jax.jit(maps)
        try:
            np.asarray(compiled(run.variables, example, np.zeros(1, np.int32)))
        except InputError:  # no spatial features, or an operation without a rule
            continue

        def explain(row: Row, target: int, text: str, title: str = title, compiled: Any = compiled) -> dict[str, Any]:
            image = row["image"][None]
            # of the only label, its logit is explained, and not the negative
            chosen = np.array([1 if only else target], np.int32)
            found = np.asarray(compiled(run.variables, prepared(run, image), chosen))
            pixels = image[..., :3] / 255 if image.dtype == np.uint8 else image[..., :3]
            pixels = np.broadcast_to(pixels if pixels.shape[-1] == 3 else pixels[..., :1], (*pixels.shape[:3], 3))
            picture = drawing.png(keyed(strip(overlaid(found, pixels))))
            return {"method": title, "picture": base64.b64encode(picture).decode()}

        return explain
    return None


def _text(run: Any) -> Explain:
    """Explain a text by leaving out one of its words at a time (Li et al., 2016, arXiv:1612.08220)."""
    how = text_options(run.config)
    fill = words.SPACE if how["unit"] == "bytes" else words.UNKNOWN
    head = run.config["build"]["task"]["options"].get("head", "softmax")
    compiled = jax.jit(lambda variables, x: run.task.predict(variables, {"text": x}))

    def explain(row: Row, target: int, text: str) -> dict[str, Any]:
        spans = words.spans(text.strip(), how["unit"], how["length"])[:WORDS]
        rows = np.repeat(row["text"][None], WORDS + 1, 0)
        for n, (_, start, stop) in enumerate(spans, 1):
            rows[n, start:stop] = fill
        odds = np.asarray(log_odds(compiled(run.variables, rows), target, head))
        changes = [(word, round(float(odds[0] - x), 4)) for (word, *_), x in zip(spans, odds[1:], strict=False)]
        return {"method": "Words left out", "words": changes}

    return explain
