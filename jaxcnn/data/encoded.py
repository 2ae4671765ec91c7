"""Images in records: parsing a serialised example, and decoding its image within limits on its declared size."""

import contextlib
import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError
from jaxcnn.data.crops import Choose
from jaxcnn.data.image import Resize, cut, drafted, shown

FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # those of TFDS's image feature; for some others Pillow starts programs
PIXELS = 2**26  # most pixels of an image
BILINEAR = 2  # Pillow's constant
LARGE = 2**22  # pixels above which images are decoded one at a time, to limit memory
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # number of channels to Pillow's mode
_ONE_AT_A_TIME = threading.Lock()


def values_of(record: bytes) -> Mapping[str, Any]:
    """Return the values of a serialised `tf.train.Example` by name, without TensorFlow.

    Raises:
        InputError: The record is not an example.

    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] (made at import)
    try:
        return example.FromString(record).features.feature
    except DecodeError:
        raise InputError("not an example that TFDS wrote") from None


def parse(record: bytes) -> tuple[bytes, int]:
    """Return the encoded image and the label of a serialised `tf.train.Example`, without TensorFlow.

    Raises:
        InputError: The record is not an example, or does not have exactly one image and one label.

    """
    features = values_of(record)
    image, label = features["image"].bytes_list.value, features["label"].int64_list.value
    if len(image) != 1 or len(label) != 1:
        raise InputError(f"{len(image)} images and {len(label)} labels in an example; must be one of each")
    return image[0], label[0]


def decode(
    encoded: bytes, shape: tuple[int, ...], resized: bool, resize: Resize = "squash", crop_ratio: float = 1.0,
    window: Choose | None = None,
) -> np.ndarray:  # fmt: skip
    """Return the pixels of an encoded image.

    Args:
        encoded: PNG, JPEG, GIF (its first frame) or BMP.
        shape: `(H, W, C)` of the result.
        resized: whether images of other sizes are resized; otherwise they are refused.
        resize: how, see `jaxcnn.data.image.decode`.
        crop_ratio: see there.
        window: see there.

    Returns:
        uint8 `[H, W, C]`.

    Raises:
        InputError: The image has a different size, or is too large.
        Exception: The image is damaged; decoders raise errors of many types.

    """
    height, width, channels = shape
    with opened_encoded(encoded) as image:
        pixels = image.width * image.height
        if not resized and image.size != (width, height):
            stated = f"the set states {height} x {width}; give an image size, to resize all images"
            raise InputError(f"an image of {image.height} x {image.width} pixels, but {stated}")
        with _ONE_AT_A_TIME if pixels > LARGE else contextlib.nullcontext():
            if window is None and resize == "squash":
                image = _in_mode(image, MODES[channels])
                if image.size != (width, height):
                    image = image.resize((width, height), resample=BILINEAR)
                return np.asarray(image, np.uint8).reshape(shape)
            part = drafted(image, shown(image.size[::-1], (height, width), resize, crop_ratio, window), window is None)
            return np.asarray(cut(_in_mode(image, MODES[channels]), part, (height, width)), np.uint8).reshape(shape)


def opened_encoded(encoded: bytes) -> Any:
    """Open an encoded image of Pillow's, which is not decoded yet.

    Raises:
        InputError: It is in another format, or has too many pixels.

    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"none of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limits are higher
        raise InputError(f"an image of more than the {PIXELS:,} pixels that are read") from None
    if image.width * image.height > PIXELS:
        image.close()
        raise InputError(f"an image of more than the {PIXELS:,} pixels that are read")
    return image


def _in_mode(image: Any, mode: str) -> Any:
    """Convert to 8 bits; Pillow would clip values above 255, and warn about a palette with transparency."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def check_label(label: np.ndarray, classes: int) -> None:
    """Refuse labels outside 0 to `classes` - 1.

    Raises:
        InputError: There is such a label; the message names the first.

    """
    wrong = label[(label < 0) | (label >= classes)]
    if len(wrong):
        raise InputError(f"label {wrong[0]} is out of range; with {classes} classes labels are 0 to {classes - 1}")
