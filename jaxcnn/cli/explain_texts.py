"""`jaxcnn explain` for runs on texts: an HTML page with each text's words, marked by what they speak for."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import words
from jaxcnn.deploy.answers import described
from jaxcnn.explain import erasure
from jaxcnn.report.markup import document, marked
from jaxcnn.runs.single import read_texts, text_options, text_row

SHOWN = 5  # words in a printed line


def explain(loaded: Any, paths: Sequence[pathlib.Path], texts: Sequence[str], target: str, folder: pathlib.Path) -> Any:
    """Write `texts.html` into a folder, print a line for each text, and return the path in a list.

    Args:
        loaded: the run.
        paths: files of texts.
        texts: further texts.
        target: the class to explain; empty for the predicted class of each text.
        folder: folder of the page.

    Raises:
        InputError: a file cannot be read, or the page cannot be written.

    """
    classes, how = loaded.config["classes"], text_options(loaded.config)
    fill = words.SPACE if how["unit"] == "bytes" else words.UNKNOWN
    head = loaded.config["build"]["task"]["options"].get("head", "softmax")
    body: dict[str, str] = {}
    if wrong := [text for text in texts if os.path.isfile(text)]:
        raise InputError(f"--text {visible(wrong[0])[:80]}: is a file; give it before --text")
    named = [pair for path in paths for pair in read_texts(loaded.config, path)] + [(text[:60], text) for text in texts]
    for name, text in named:
        text = text.strip()
        row = text_row(loaded.config, text)["text"]
        found = described(loaded, name, np.asarray(loaded.task.predict(loaded.variables, {"text": row[None]}))[0])
        chosen = target or max(found["probabilities"], key=found["probabilities"].get)
        spans = words.spans(text, how["unit"], how["length"])
        at = classes.index(chosen)
        weights = erasure(loaded.task.predict, loaded.variables, row, spans, at, fill=fill, head=head)
        first = sorted(weights, key=lambda pair: -pair[1])[:SHOWN]
        line = found | {"explained": chosen, "words": {word: round(weight, 4) for word, weight in first if weight > 0}}
        print(files.to_json(line), flush=True)
        heading = f"{len(body) + 1}. {visible(name)[:80]}: {chosen} {found['probabilities'][chosen]:.3f}"
        body[heading] = marked(weights)
    about = (
        "Red words speak for the class and blue ones against it: the change of its log-odds when a word is left out."
    )
    path = folder / "texts.html"
    try:
        files.write_text(path, document("Words and what they speak for", about, body, ""))
    except OSError as error:
        raise InputError(f"--output {visible(folder)}: cannot be written ({error.strerror}); give another") from error
    print(visible(path), flush=True)
    return [path]
