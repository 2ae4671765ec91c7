"""The serialised examples of a TFDS set that is prepared as `array_record`, by number and without TensorFlow."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError, reason
from jaxcnn.data.core import OnBad, sides
from jaxcnn.data.crops import Sides
from jaxcnn.data.shards import refuse_cut, refuse_unstated, sound
from jaxcnn.data.tfds_folder import check_image, check_rows
from jaxcnn.data.tfds_source import AS_RECORDS, builder_of, prepare, splits_of


class Records:
    """The serialised examples of a split, by number.

    Args:
        builder: a prepared TFDS builder.
        split: the split.
        on_bad: called with a message and a count for each truncated shard, whose rows are left out; None to raise.

    Raises:
        InputError: A shard is truncated or missing, or there are no examples.

    """

    def __init__(self, builder: Any, split: str, on_bad: OnBad | None) -> None:
        import tensorflow_datasets as library

        check_rows(builder.info.splits[split.partition("[")[0]], split.partition("[")[0], str(builder.data_path))
        if on_bad is None:
            refuse_unstated(builder, split)
        else:
            split = sound(builder, split, on_bad)
        self.split, self.where = split, f"{builder.data_path}: split {split}"
        raw = library.decode.DeserializeMethod.RAW_BYTES
        try:
            refuse_cut(builder, split)
            self.source = builder.as_data_source(split=split, deserialize_method=raw)
        except Exception as error:  # for a truncated shard the reader raises errors of its own types
            fix = "delete the folder and prepare it again"
            raise InputError(f"{self.where} is not readable ({reason(error)}); {fix}") from error
        if not len(self.source):
            raise InputError(f"{self.where} has no examples; prepare it again")

    def __len__(self) -> int:
        return len(self.source)

    def attempt(self, i: int, read: Callable[[bytes], Any]) -> Any:
        """Return what a function makes of a record; refuse a record that is not readable in one line."""
        try:
            return read(self.source[i])
        except Exception as error:  # for a damaged record the reader and decoders raise errors of many types
            raise InputError(f"{self.where}: record {i} is not readable ({visible(reason(error))})") from error


def image_features(name: str, data_dir: str | pathlib.Path | None) -> tuple[Any, dict[str, Any]]:
    """Return the builder of a set and its features, which are known before a download.

    Args:
        name: name of the set.
        data_dir: folder with prepared sets; None for TFDS's own.

    Raises:
        InputError: The name is unknown, or the set has no image of uint8.

    """
    import tensorflow_datasets as library

    builder = builder_of(name, data_dir)
    features = dict(builder.info.features.items()) if hasattr(builder.info.features, "items") else {}
    if not isinstance(features.get("image"), library.features.Image):
        has = ", ".join(features) or "no named features"
        raise InputError(f"dataset {name!r}: has {has}; needs an 'image'")
    image = features["image"]
    check_image(image, f"dataset {name!r}")
    if image.np_dtype != np.uint8:
        raise InputError(f"dataset {name!r}: images of dtype {np.dtype(image.np_dtype)}; must be uint8")
    return builder, features


def row_size(image: Any, size: int | tuple[int, int] | None, name: str) -> Sides:
    """Return height and width of the rows: those given, or those that the set states for all images."""
    if size is None and None in image.shape[:2]:
        raise InputError(f"{name}: images of several sizes; give an image size to resize them to, such as 64")
    height, width = sides(size) or image.shape[:2]
    return height, width


def records_of(builder: Any, name: str, download: bool, on_bad: OnBad | None) -> dict[str, Records]:
    """Return the records of each part of a set, which is prepared if it is not yet.

    Raises:
        InputError: It is not prepared as `array_record`, or is not readable.

    """
    if not prepare(builder, name, download):
        raise InputError(f"{name}: prepared in {builder.data_path} as tfrecord; {AS_RECORDS}")
    return {part: Records(builder, split, on_bad) for part, split in splits_of(builder, name).items()}
