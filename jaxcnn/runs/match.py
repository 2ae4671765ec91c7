"""Conversion of other data to the labels and channels of a run."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import Batch, InputError
from jaxcnn.data import Resident
from jaxcnn.parallel.compile import StackedChunk

GRAY = (19595, 38470, 7471)  # ITU-R 601 weights times 65,536, the same integers as Pillow's


def table(theirs: Sequence[str], ours: Sequence[str], name: str) -> tuple[np.ndarray | None, str]:
    """Match classes by name, or by number if only one side has names.

    Args:
        theirs: class names of the data, in order of label.
        ours: class names of the run, in order of label.
        name: name of the data, for the message.

    Returns:
        `(labels, note)`: the run's label for each label of the data, or None if the labels are the same; and a remark
        for the user, or an empty string.

    Raises:
        InputError: The classes differ.

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
        shown = named + (", ..." if len(ours) > 5 else "")
        return None, f"Classes are matched by number, because {which} no names of classes: {shown}."
    raise InputError(
        f"{name}: {len(theirs)} classes ({_some(theirs)}), and the run has {len(ours)} ({_some(ours)}); "
        "give data with the classes of the run"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(visible(name)[:40] for name in names[:10]) + (", ..." if len(names) > 10 else "")


def matched(data: Any, classes: tuple[str, ...], numbers: np.ndarray | None, channels: int | None = None) -> Any:
    """Convert a data set to the labels and channels of a run.

    Args:
        data: a data set.
        classes: class names of the run, in order of label.
        numbers: the run's label for each label of the data; None if the labels are the same.
        channels: channels of the run's images. Gray is converted to RGB and RGB to gray; other images are unchanged.
            None if the rows are no images.

    """

    def change(rows: Batch) -> dict[str, Any]:
        out = _with_channels(rows, channels)
        if numbers is not None:
            for key in {"label", "box_label", "mask"} & set(rows):
                label = np.asarray(rows[key])
                known = (label >= 0) & (label < len(numbers))
                out[key] = np.where(known, numbers[np.where(known, label, 0)], label).astype(label.dtype)
        return out

    if isinstance(data, Resident):
        return Resident(change(data.arrays), classes, data.seed, data.capacity, data.names)
    return Changed(data, change, classes)


def in_columns(data: Any, classes: tuple[str, ...], columns: np.ndarray | None, channels: int | None = None) -> Any:
    """Convert a data set to the channels of a run, and put its label columns into the run's order.

    Args:
        data: a data set with `"label"` `[N, K]` or `"target"`.
        classes: class names of the run, in order.
        columns: column numbers of the data, in the run's order; None if the order is the same.
        channels: channels of the run's images, see `matched`.

    """

    def change(rows: Batch) -> dict[str, Any]:
        return _with_channels(rows, channels) | (
            {} if columns is None else {"label": np.asarray(rows["label"])[:, columns]}
        )

    if isinstance(data, Resident):
        return Resident(change(data.arrays), classes, data.seed, data.capacity, data.names)
    return Changed(data, change, classes)


def _with_channels(rows: Batch, channels: int | None) -> dict[str, Any]:
    return {**rows} if channels is None else {**rows, "image": with_channels(np.asarray(rows["image"]), channels)}


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert images `[..., H, W, C]` (uint8 0..255 or float 0..1) from gray to RGB, or from RGB to gray."""
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
    """A data set whose rows are converted by a function as they are read.

    Attributes:
        data: the data set.
        change: function of a batch that returns the converted batch.
        classes: class names, in order of label.

    """

    data: Any
    change: Callable[[Batch], dict[str, Any]]
    classes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.data.size

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the rows; None if they have no names."""
        return getattr(self.data, "names", None)

    def example(self) -> Batch:
        """Return the first row."""
        return self.change(self.data.example())

    def put(self, move: Callable[[Any], Any]) -> "Changed":
        """Return itself: nothing stays on the device."""
        del move
        return self

    def once(self, *arguments: Any, **options: Any) -> Iterator[StackedChunk]:
        """Yield every row once, in order."""
        for chunk in self.data.once(*arguments, **options):
            yield StackedChunk(self.change(chunk.batches), chunk.count)
