"""How an image is to be turned so that it stands upright: what EXIF, XMP or TIFF says, and where formats keep it."""

import contextlib
import re
import struct
from typing import IO, Any

ORIENTATION = 274  # a tag of TIFF, in which EXIF is written


def orientation(image: Any, file: IO[bytes]) -> int:
    """Return how an image is to be turned, 1 to 8 as in EXIF; a damaged entry turns nothing.

    Args:
        image: open, but not decoded.
        file: the image's file, whose position stays.

    """
    with contextlib.suppress(Exception):
        info = image.info
        if image.format == "PNG":
            info |= {k: v for k, v in _chunks(file, image.mode.startswith("I;16")).items() if k not in info}
        turn = _in_tags(image)
        xmp = info.get("XML:com.adobe.xmp") or info.get("xmp")
        if turn is None and xmp:
            found = re.search(rb'tiff:Orientation(="|>)([0-9])', xmp.encode() if isinstance(xmp, str) else xmp)
            turn = found and int(found[2])
        return turn if turn and turn in range(1, 9) else 1
    return 1


def _in_tags(image: Any) -> int | None:
    """Find the orientation in the tags of a TIFF, or in EXIF, which some PNG files have as text."""
    if image.format == "TIFF":
        return image.tag_v2.get(ORIENTATION)
    if "exif" in image.info:
        return _in_exif(image.info["exif"])
    if "Raw profile type exif" in image.info:
        return _in_exif(bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:])))
    return None


def _in_exif(exif: bytes) -> int | None:
    """Find the orientation in EXIF; the last of several entries counts."""
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (at,) = struct.unpack_from(order + "L", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, at)
    found = None
    for place in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, place)
        if tag == ORIENTATION and kind in (1, 3, 4):
            (found,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "L"}[kind], exif, place + 8)
    return found


def _chunks(file: IO[bytes], deep: bool) -> dict[str, Any]:
    """Find what Pillow does not read when it opens a PNG: EXIF behind the pixels, and how many of 16 bits are used."""
    found, at, here = {}, 8, file.tell()
    try:
        for _ in range(2**16):
            file.seek(at)
            start = file.read(8)
            if len(start) < 8:
                break
            length, name = int.from_bytes(start[:4], "big"), start[4:]
            if name == b"eXIf" and length <= 2**20:
                found["exif"] = file.read(length)
            elif name == b"sBIT" and deep:
                found["sBIT"] = max(1, min(16, file.read(1)[0]))
            at += length + 12
    finally:
        file.seek(here)
    return found
