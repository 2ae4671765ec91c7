"""Images within records: a serialised example to its encoded image and label, and that to pixels, whatever sizes they declare."""

import contextlib
import io
import threading
from typing import Any

import numpy as np

from jaxcnn.core.types import InputError

FORMATS = ("PNG", "JPEG", "GIF", "BMP")  # what TFDS's image feature takes; Pillow would start other programs for some
PIXELS = 2**26  # of one image
BILINEAR = 2  # Pillow's number
LARGE = 2**22  # pixels from which on images are decoded one after another, so that their memory does not add up
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
_ONE_AT_A_TIME = threading.Lock()


def parse(record: bytes) -> tuple[bytes, int]:
    """Return the encoded image and the label of a serialised `tf.train.Example`, without TensorFlow.

    Raises:
        InputError: it has not exactly one of each.

    """
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example  # pyright: ignore[reportAttributeAccessIssue] (made at import)
    try:
        features = example.FromString(record).features.feature
    except DecodeError:
        raise InputError("not an example that TFDS wrote") from None
    image, label = features["image"].bytes_list.value, features["label"].int64_list.value
    if len(image) != 1 or len(label) != 1:
        raise InputError(f"{len(image)} images and {len(label)} labels in an example; must be one of each")
    return image[0], label[0]


def decode(encoded: bytes, shape: tuple[int, ...], resized: bool) -> np.ndarray:
    """Return the pixels of an encoded image.

    Args:
        encoded: PNG, JPEG, GIF (its first frame) or BMP.
        shape: `(H, W, C)` of the result.
        resized: whether images of other sizes are resized; otherwise they are refused.

    Returns:
        uint8 of the shape.

    Raises:
        InputError: of another size, or too large.
        Exception: whatever the decoder of a damaged image stumbles over.

    """
    height, width, channels = shape
    with _opened(encoded) as image:
        pixels = image.width * image.height
        if pixels > PIXELS:
            raise InputError(f"an image of more than the {PIXELS:,} pixels that are read")
        if not resized and image.size != (width, height):
            stated = f"the set states {height} x {width}; give an image size to bring all to"
            raise InputError(f"an image of {image.height} x {image.width} pixels, and {stated}")
        with _ONE_AT_A_TIME if pixels > LARGE else contextlib.nullcontext():
            image = _in_mode(image, MODES[channels])
            if image.size != (width, height):
                image = image.resize((width, height), resample=BILINEAR)
            return np.asarray(image, np.uint8).reshape(shape)


def _opened(encoded: bytes) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(f"none of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # Pillow's own limits are higher
        raise InputError(f"an image of more than the {PIXELS:,} pixels that are read") from None


def _in_mode(image: Any, mode: str) -> Any:
    """Convert to 8 bits; Pillow itself would clip what is above 255, and lose a palette's transparency with a warning."""
    from PIL import Image

    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert(mode)


def check_label(label: np.ndarray, classes: int) -> None:
    """Refuse labels that are none of the classes.

    Raises:
        InputError: it names the first.

    """
    wrong = label[(label < 0) | (label >= classes)]
    if len(wrong):
        raise InputError(f"label {wrong[0]} is out of range; with {classes} classes labels are 0 to {classes - 1}")
