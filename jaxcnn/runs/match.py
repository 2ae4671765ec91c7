"""Rows of other data with the labels and channels that a run has."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import Batch, InputError
from jaxcnn.data import Resident
from jaxcnn.parallel.compile import StackedChunk

GRAY = (19595, 38470, 7471)  # of 65,536: the weights of ITU-R 601, as Pillow has them


def table(theirs: Sequence[str], ours: Sequence[str], name: str) -> tuple[np.ndarray | None, str]:
    """Match classes by name, or by number where only one side has names.

    Args:
        theirs: names of the classes of the data, in order of label.
        ours: those of the run.
        name: of the data, for the message.

    Returns:
        For each label of the data the run's label, or None where they are the same; and a note, where there is something to say.

    Raises:
        InputError: other classes.

    """
    theirs, ours = tuple(theirs), tuple(ours)
    if theirs == ours:
        return None, ""
    if len(theirs) == len(ours) and set(theirs) == set(ours):
        return np.array([ours.index(c) for c in theirs], np.int32), ""
    numbered = [names == tuple(map(str, range(len(names)))) for names in (theirs, ours)]
    if len(theirs) == len(ours) and any(numbered):
        named = ", ".join(f"{k} is {visible(c)[:40]}" for k, c in enumerate((ours if numbered[0] else theirs)[:5]))
        which = "the data have" if numbered[0] else "the run has"
        return (
            None,
            f"Classes are matched by number, because {which} no names of classes: {named}{', ...' if len(ours) > 5 else ''}.",
        )
    raise InputError(
        f"{name}: {len(theirs)} classes ({_some(theirs)}), and the run has {len(ours)} ({_some(ours)}); "
        "a run can only be measured on data of its own classes"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(visible(name)[:40] for name in names[:10]) + (", ..." if len(names) > 10 else "")


def matched(data: Any, classes: tuple[str, ...], numbers: np.ndarray | None, channels: int) -> Any:
    """Give rows the labels and channels that a run has.

    Args:
        data: a data set.
        classes: of the run, in its order.
        numbers: for each label of the data the run's; None where they are the same.
        channels: of the run's images; gray becomes RGB and RGB gray, others stay as they are.

    """

    def change(rows: Batch) -> dict[str, Any]:
        image, label = with_channels(np.asarray(rows["image"]), channels), np.asarray(rows["label"])
        if numbers is not None:
            known = (label >= 0) & (label < len(numbers))
            label = np.where(known, numbers[np.where(known, label, 0)], label).astype(label.dtype)
        return {**rows, "image": image, "label": label}

    if isinstance(data, Resident):
        return Resident(change(data.arrays), classes, data.seed, data.capacity, data.names)
    return Changed(data, change, classes)


def in_columns(data: Any, classes: tuple[str, ...], columns: np.ndarray | None, channels: int) -> Any:
    """Give rows the channels that a run has, and the columns of their answers in its order.

    Args:
        data: a data set with `"label"` `[N, K]` or `"target"`.
        classes: of the run.
        columns: of the data, in the run's order; None where they are the same.
        channels: of the run's images.

    """

    def change(rows: Batch) -> dict[str, Any]:
        image = with_channels(np.asarray(rows["image"]), channels)
        return {**rows, "image": image} | ({} if columns is None else {"label": np.asarray(rows["label"])[:, columns]})

    if isinstance(data, Resident):
        return Resident(change(data.arrays), classes, data.seed, data.capacity, data.names)
    return Changed(data, change, classes)


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return `[..., H, W, C]` in gray or in RGB, uint8 0..255 or float 0..1."""
    if {image.shape[-1], channels} != {1, 3}:
        return image
    if channels == 3:
        return np.repeat(image, 3, -1)
    if image.dtype != np.uint8:
        return (
            (image * (np.array(GRAY) / 65536).astype(image.dtype)).sum(-1, keepdims=True, dtype=image.dtype).clip(0, 1)
        )
    gray = np.full((*image.shape[:-1], 1), 0x8000, np.uint32)
    for k, weight in enumerate(GRAY):
        gray += image[..., k : k + 1] * np.uint32(weight)
    return (gray >> 16).astype(np.uint8)


class Changed(NamedTuple):
    """Rows that are read when they are needed, each chunk of them changed by a function."""

    data: Any
    change: Callable[[Batch], dict[str, Any]]
    classes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.data.size

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the rows, where they have some."""
        return getattr(self.data, "names", None)

    def example(self) -> Batch:
        """Return the first row."""
        return self.change(self.data.example())

    def put(self, move: Callable[[Any], Any]) -> "Changed":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def once(self, *arguments: Any, **options: Any) -> Iterator[StackedChunk]:
        """Give every row once, in order."""
        for chunk in self.data.once(*arguments, **options):
            yield StackedChunk(self.change(chunk.batches), chunk.count)
