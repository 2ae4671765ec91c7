"""Pictures of what a run predicts for image files, in the pixels of the file: masks, or boxes with their classes."""

import itertools
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import centred, draw_boxes, drawing, write_nifti
from jaxcnn.data.folder import read_image
from jaxcnn.data.nifti import ENDINGS as VOLUMES
from jaxcnn.data.nifti import read_head
from jaxcnn.deploy import answers

WRITTEN = {"segmentation": (".png", "_overlay.png", ".nii.gz"), "detection": (".png",)}  # endings of names
Draw = Callable[[str, Any], dict[str, Any]]


def drawer(loaded: Any, folder: str, paths: Sequence[pathlib.Path], least_score: float = 0.25) -> Draw | None:
    """Return a function that draws a prediction and describes it; None for tasks without pictures.

    Args:
        loaded: the run.
        folder: where the pictures go; it is made if it is missing.
        paths: all image files, whose pictures need different names.
        least_score: boxes with lower scores are left out.

    Raises:
        InputError: the folder cannot be made, or a picture would replace an input.

    """
    task = loaded.config["build"]["task"]["name"]
    if task not in ("detection", "segmentation"):
        return None
    place, names = pathlib.Path(folder), _names(paths)
    inputs = {os.path.realpath(path) for path in paths}
    for name in names.values():
        for path in (place / f"{name}{ending}" for ending in WRITTEN[task]):
            if os.path.realpath(path) in inputs:
                line = f"{visible(path.name)} would replace an input; give another folder"
                raise InputError(f"--out {visible(folder)}: {line}")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {visible(folder)}: cannot be made ({error.strerror}); give another folder") from error

    def draw(file: str, outputs: Any) -> dict[str, Any]:
        if task == "segmentation" and outputs.ndim == 4:
            return _labelled(loaded, file, outputs, place / names[file])
        if task == "segmentation":
            return _segmented(loaded, file, outputs, place / names[file])
        return _detected(loaded, file, outputs, place / names[file], least_score)

    return draw


def _names(paths: Sequence[pathlib.Path]) -> dict[str, str]:
    """Return a name for the pictures of each file: its own without the ending, and a number if others share it."""
    names, used = dict[str, str](), set[str]()
    for path in paths:
        stem = path.name.removesuffix(".gz").removesuffix(".nii") if path.name.endswith(VOLUMES) else path.stem
        given = (stem if n == 1 else f"{stem}_{n}" for n in itertools.count(1))
        names[str(path)] = next(name for name in given if not used & {name, f"{name}_overlay"})
        used |= {names[str(path)], f"{names[str(path)]}_overlay"}
    return names


def _segmented(loaded: Any, file: str, scores: np.ndarray, place: pathlib.Path) -> dict[str, Any]:
    """Write the mask of an image and its overlay, at the size of the file; return their names and the classes' shares.

    Args:
        loaded: the run.
        file: name of the image file.
        scores: logits of the network, `[h, w, K]`.
        place: path of the pictures without the ending.

    """
    image = read_image(file, 3)
    found = answers.mask_of(loaded, file, scores, (image.shape[0], image.shape[1]))
    colours = drawing.palette(len(loaded.config["classes"]))
    written = {
        f"{place}.png": drawing.indexed_png(found.mask, colours),
        f"{place}_overlay.png": drawing.png(drawing.overlay(image, found.mask, colours=colours)),
    }
    _write(written)
    return {"file": file, "mask": f"{place}.png", "overlay": f"{place}_overlay.png", "shares": found.shares}


def _labelled(loaded: Any, file: str, scores: np.ndarray, place: pathlib.Path) -> dict[str, Any]:
    """Write the labels of a volume with the affine of its file; return their name and the classes' millilitres.

    Args:
        loaded: the run.
        file: name of the NIfTI file.
        scores: logits of the network, `[D, H, W, K]`.
        place: path of the labels without the ending.

    """
    if not np.isfinite(scores).all():
        raise InputError(f"{visible(file)}: the outputs are not finite; check the weights")
    head = read_head(file)
    labels = centred(scores.argmax(-1).astype(np.uint8), head.shape)
    try:
        write_nifti(f"{place}.nii.gz", labels, like=file)
    except OSError as error:
        raise InputError(
            f"{visible(place)}.nii.gz: cannot be written ({error.strerror}); give another --out"
        ) from error
    each, classes = float(np.prod(head.spacing)) / 1000, loaded.config["classes"]
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    millilitres = {name: round(float(n * each), 3) for name, n in zip(classes, counts, strict=True)}
    return {"file": file, "labels": f"{place}.nii.gz", "millilitres": millilitres}


def _detected(loaded: Any, file: str, found: Any, place: pathlib.Path, least_score: float) -> dict[str, Any]:
    """Write an image with its boxes, at the size of the file; return the objects, with boxes in pixels of the file.

    Args:
        loaded: the run.
        file: name of the image file.
        found: detections of the image, `"boxes"` `[M, 4]` and so on.
        place: path of the picture without the ending.
        least_score: boxes with lower scores are left out.

    """
    image = read_image(file, 3)
    sides = (image.shape[0], image.shape[1])
    one = answers.objects_of(loaded, file, found, sides, least_score)
    shares = {"boxes": one.boxes / np.tile(sides, 2), "scores": one.scores, "labels": one.labels}
    _write({f"{place}.png": drawing.png(draw_boxes(image, shares, loaded.config["classes"]))})
    return {"file": file, "picture": f"{place}.png", "objects": one.objects}


def _write(contents: dict[str, bytes]) -> None:
    """Write files, each completely or not at all."""
    for path, content in contents.items():
        try:
            files.write_bytes(pathlib.Path(path), content)
        except OSError as error:
            line = f"{visible(path)}: cannot be written ({error.strerror}); give another folder with --out"
            raise InputError(line) from error
