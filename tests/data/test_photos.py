"""An image file is read as a viewer shows it, in supported formats only, or refused before it takes memory."""

import dataclasses
import io
import logging
import os
import resource
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from experiments import image_processing
from jaxcnn.data import folder, image_file
from jaxcnn.data import image as image_module
from jaxcnn.data.folder import ENDINGS, read_image
from jaxcnn.data.image import decode, head
from tests.data.test_data import refused

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 3)).astype(np.uint8)
RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def exif(turn):
    tag = Image.Exif()
    tag[0x0112] = turn
    return tag


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(path, image, name, body, at=33, **options):
    """Save a PNG with a given chunk, after its header or, with a negative `at`, elsewhere."""
    image.save(path, **options)
    raw = path.read_bytes()
    path.write_bytes(raw[:at] + chunk(name, body) + raw[at:])


def tiff(bits, data, photometric=1, sample=1, side=8):
    """A bare TIFF of one strip."""
    tags = [
        (256, side), (257, side), (258, bits), (259, 1), (262, photometric), (273, 122), (277, 1), (278, side),
        (339, sample),
    ]  # fmt: skip
    body = b"".join(struct.pack("<HHLHH", tag, 3, 1, value, 0) for tag, value in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + body + b"\0\0\0\0" + data


def as_shown(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def agrees(path):
    """The pixels are those that a viewer shows, and `head` returns their size."""
    right = as_shown(path)
    return np.array_equal(read_image(path, 3), right) and head(path).size == right.shape[:2]


@pytest.mark.parametrize("turn", range(1, 9))
def test_orientation_is_applied(tmp_path, turn):
    tag, image = exif(turn), Image.fromarray(COLOUR)
    saved = {"png": {}, "jpg": {}, "webp": {"lossless": True}, "tif": {}, "avif": {}}
    for end, options in saved.items():
        image.save(tmp_path / f"x.{end}", exif=tag, **options)
    for kind in ("tiff_lzw", "jpeg"):
        image.save(tmp_path / f"{kind}.tif", exif=tag, compression=kind)
    for mode in ("P", "L", "1", "RGBA"):
        image.convert(mode).save(tmp_path / f"{mode}.png", exif=tag)
    xmp = f'<rdf:Description tiff:Orientation="{turn}"/>'
    image.save(tmp_path / "xmp.jpg", xmp=xmp.encode())
    profile, itxt = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", f"\nexif\n{len(tag.tobytes()):8}\n{tag.tobytes().hex()}\n", zip=True)
    itxt.add_itxt("XML:com.adobe.xmp", xmp)
    image.save(tmp_path / "profile.png", pnginfo=profile), image.save(tmp_path / "xmp.png", pnginfo=itxt)
    # after the pixels
    png_with(tmp_path / "late.png", image, b"eXIf", tag.tobytes().removeprefix(b"Exif\0\0"), at=-12)
    assert [path.name for path in tmp_path.iterdir() if not agrees(path)] == []
    deep = Image.fromarray(np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000)
    deep.save(tmp_path / "deep.png", exif=tag)
    with Image.open(tmp_path / "deep.png") as stored:
        assert np.array_equal(
            read_image(tmp_path / "deep.png", 1)[..., 0], np.rint(np.asarray(ImageOps.exif_transpose(stored)) / 257)
        )


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_a_folder_of_turned_photos_is_of_one_size(tmp_path, resident_bytes):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):  # half of them stored sideways
            image = Image.fromarray(np.rot90(COLOUR, i % 2).copy())
            image.save(tmp_path / name / f"{i}.png", exif=exif(6 if i % 2 else 1))
    for size, shape in ((None, (6, 10, 3)), (4, (4, 4, 3))):
        rows = folder(tmp_path, size=size, resident_bytes=resident_bytes).train.chunk(14, 0, 1, 1).at(0)["image"]
        assert rows.shape == (14, *shape) and (rows == rows[:1]).all()
        assert size or (rows[0] == COLOUR).all()


def test_damaged_exif_turns_nothing_and_says_nothing(tmp_path, rng):
    sound, path = exif(6).tobytes(), tmp_path / "x.jpg"
    before = list(warnings.filters)
    for i in range(60):
        bad = bytearray(sound)
        bad[rng.integers(6, len(bad))] = rng.integers(256)
        Image.fromarray(COLOUR).save(path, exif=bytes(bad[: rng.integers(6, len(bad))] if i % 2 else bad))
        assert read_image(path, 3).shape[:2] == head(path).size  # warnings are errors here
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("end", "options"),
    [("png", {}), ("webp", {"lossless": True, "exact": True}), ("tif", {}), ("tga", {}), ("jp2", {})],
)
def test_transparent_pixels_are_white(tmp_path, end, options):
    pixels = np.full((8, 8, 4), (200, 0, 0, 255), np.uint8)
    pixels[4:6, :, 3], pixels[6:, :, 3] = 0, 128
    path = tmp_path / f"x.{end}"
    Image.fromarray(pixels).save(path, **options)
    assert read_image(path, 3)[[0, 4, 6], 0].tolist() == [[200, 0, 0], [255, 255, 255], [227, 127, 127]]
    assert read_image(path, 1)[[0, 4, 6], 0, 0].tolist() == [60, 255, 157]


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_transparent_colour_is_white(tmp_path, mode):
    image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    image.save(tmp_path / "x.png", transparency=0)
    expected = np.where(RAMP == 0, 255, RAMP)
    assert np.array_equal(read_image(tmp_path / "x.png", 1)[..., 0], expected)


@pytest.mark.parametrize("end", ["gif", "webp", "png", "tif", "avif"])
def test_the_first_frame_is_read(tmp_path, end):
    first, *more = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime"))
    first.save(tmp_path / f"x.{end}", save_all=True, append_images=more)
    assert np.abs(read_image(tmp_path / f"x.{end}", 3).astype(int) - (255, 0, 0)).max() < 5


def twelve(values):
    """Pack into 12 bits each."""
    pairs = values.ravel().astype(int).reshape(-1, 2)
    return b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in pairs)


def test_bits_are_read_by_the_range_that_is_declared(tmp_path):
    deep, scaled = RAMP.astype(np.uint16) * 257, np.rint(RAMP / 255 * 4095).astype(np.uint16)
    for end in ("png", "tif", "jp2", "pgm"):
        Image.fromarray(deep).save(tmp_path / f"16.{end}")
    (tmp_path / "white_is_0.tif").write_bytes(tiff(16, (65535 - deep).astype("<u2").tobytes(), photometric=0))
    (tmp_path / "12.tif").write_bytes(tiff(12, twelve(scaled)))
    (tmp_path / "12.pgm").write_bytes(b"P5 8 8 4095\n" + scaled.astype(">u2").tobytes())
    (tmp_path / "1000.pgm").write_bytes(
        b"P2 8 8 1000\n" + b" ".join(b"%d" % round(int(x) * 1000 / 255) for x in RAMP.ravel())
    )
    png_with(tmp_path / "12.png", Image.fromarray(scaled), b"sBIT", b"\x0c")  # 12 bits, not scaled to 16
    png_with(tmp_path / "12_scaled.png", Image.fromarray(scaled << 4 | scaled >> 8), b"sBIT", b"\x0c")  # as PNG asks
    for path in tmp_path.iterdir():
        assert np.array_equal(read_image(path, 1)[..., 0], RAMP), path.name
    dark = scaled >> 6  # all multiples of 16 once scaled: nothing says that it was not
    png_with(tmp_path / "dark.png", Image.fromarray(dark << 4), b"sBIT", b"\x0c")
    assert np.array_equal(read_image(tmp_path / "dark.png", 1)[..., 0], np.rint((dark << 4) / 257))


@pytest.mark.parametrize(
    ("bits", "kind", "sample", "match"),
    [
        (32, "<u4", 1, "unsigned 32-bit"),
        (32, "<i4", 2, "signed 32-bit"),
        (16, "<i2", 2, "signed 16-bit"),
        (8, "i1", 2, "signed 8-bit"),
    ],
)
def test_numbers_without_a_range_are_refused(tmp_path, bits, kind, sample, match):
    (tmp_path / "x.tif").write_bytes(tiff(bits, (RAMP // 2).astype(kind).tobytes(), sample=sample))
    refused(
        f"x.tif: an image of {match} integers has no fixed range; save it with 8 or 16 bits",
        read_image,
        tmp_path / "x.tif",
        1,
    )


def test_few_of_16_bits_are_told(tmp_path, caplog):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(RAMP.astype(np.uint16) * 16 + i).save(tmp_path / name / f"{i}.png")
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        read_image(tmp_path / "a" / "3.png", 1), folder(tmp_path)
        Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a" / "3.png")
        folder(tmp_path)
    assert [
        r.getMessage().split("; ")[0].removeprefix(f"{tmp_path}/")
        for r in caplog.records
        if "16 bits" in r.getMessage()
    ] == [
        "a/3.png: 16 bits, but no value above 4083, of 65,535: it is read nearly black",
        "20 images have 16 bits, but in 20 of them, which were checked, no value is above 4089, of 65,535: they are "
        "read nearly black",
    ]


@pytest.mark.parametrize("resident_bytes", [2**30, 0])
def test_a_cut_deep_image_is_told_once(tmp_path, resident_bytes):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.effect_noise((64, 64), 50).convert("I;16").save(tmp_path / name / f"{i}.png")
    cut = tmp_path / "a" / "3.png"
    cut.write_bytes(cut.read_bytes()[:1000])
    told = []
    splits = folder(tmp_path, resident_bytes=resident_bytes, on_bad=lambda line, rows: told.append(line))
    rows = [chunk.at(k) for part in splits for chunk in part.once(20) for k in range(int(chunk.count))]
    assert sum(int(r["row_mask"].sum()) for r in rows) == 19 and len(told) == 1 and told[0].startswith(str(cut))


def test_lab_is_read(tmp_path):
    Image.new("LAB", (8, 8), (150, 128, 128)).save(tmp_path / "x.tif")
    assert (read_image(tmp_path / "x.tif", 1) == read_image(tmp_path / "x.tif", 3)).all() and 135 < read_image(
        tmp_path / "x.tif", 1
    ).mean() < 150


@pytest.mark.parametrize(
    ("begin", "match"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n", "EPS is not read"),
        (b"\xc5\xd0\xd3\xc6" + bytes(100), "EPS is not read"),
        (b"%PDF-1.4", "PDF is not read"), (b"8BPS" + bytes(99), "PSD is not read"), (b"<svg>", "a text, such as SVG"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "HEIC is not read"), (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"\0\0\1\0" + bytes(50), "none of PNG, JPEG"),
        (b"\xd7\xcd\xc6\x9a" + bytes(40), "none of PNG, JPEG"), (bytes(4000), "none of PNG"),
        (b"P6 -3 -3 255\n" + bytes(30), "not a readable image"),
        (b"P6 0 3 255\n", "must be at least 1 x 1|not a readable image"),
    ],
)  # fmt: skip
def test_other_formats_are_refused_and_no_program_is_started(tmp_path, monkeypatch, begin, match):
    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr("PIL.Image.open", None)  # which tries every plugin
    for end in ("png", "jpg", "eps"):
        (tmp_path / f"x.{end}").write_bytes(begin)
        refused(rf"x.{end}: .*{match}", read_image, tmp_path / f"x.{end}", 3)


@pytest.mark.parametrize("end", sorted(ENDINGS))
def test_every_ending_is_read(tmp_path, end):
    kind = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG", ".jpx": "JPEG2000", ".j2k": "JPEG2000"}.get(end)
    image = Image.fromarray(RAMP).convert("1" if end == ".pbm" else "L" if end == ".pgm" else "RGB")
    image.save(tmp_path / f"x{end}", kind)
    assert np.abs(read_image(tmp_path / f"x{end}", 1)[..., 0].astype(int) - np.asarray(image.convert("L"))).max() < 16


def test_a_codec_that_is_not_installed_is_named(tmp_path, monkeypatch):
    Image.fromarray(RAMP).save(tmp_path / "x.avif")
    image_file.factory.cache_clear()
    monkeypatch.setattr("PIL.AvifImagePlugin.SUPPORTED", False)
    refused(
        "x.avif: not a readable image .the installed Pillow has no AVIF.; update Pillow, or save it as PNG",
        head,
        tmp_path / "x.avif",
    )
    image_file.factory.cache_clear()


def bomb(name, side=50_000):
    """A few bytes that declare far more pixels than they have."""
    size = struct.pack(">II", side, side)
    return {
        "x.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + b"\1\0\0\0\0") + chunk(b"IDAT", b""),
        "x.gif": b"GIF89a"
        + struct.pack("<HH", side, side)
        + bytes(3)
        + b","
        + struct.pack("<HHHH", 0, 0, side, side)
        + b"\0\x02\0;",
        "x.bmp": b"BM" + struct.pack("<LHHLLllHHLLllLL", 54, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        "x.ppm": b"P6 %d %d 255\n" % (side, side),
        "x.tif": tiff(8, b"", side=side),
        "x.tga": b"\0\0\2" + bytes(9) + struct.pack("<HH", side, side) + b"\x18\0",
    }[name]


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.bmp", "x.ppm", "x.tif", "x.tga"])
def test_declared_pixels_are_checked_before_they_are_allocated(tmp_path, name):
    (tmp_path / name).write_bytes(bomb(name))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (head, lambda path: decode(path, "RGB", None)):
        refused(
            f"{name}: 50000 x 50000 pixels, more than the 89,478,485 that are read of an image; make it smaller",
            read,
            tmp_path / name,
        )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16 * (
        1 if sys.platform != "darwin" else 1024
    )


def test_the_limit_is_pillows_own(tmp_path, monkeypatch):
    Image.fromarray(RAMP).save(tmp_path / "x.png"), Image.fromarray(RAMP).save(tmp_path / "x.jp2")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert read_image(tmp_path / "x.png", 1).shape == (8, 8, 1)
    refused("x.jp2: 8 x 8 pixels, more than the 16 that", read_image, tmp_path / "x.jp2", 1)


def test_large_images_are_decoded_one_after_another(tmp_path, monkeypatch):
    monkeypatch.setattr(image_file, "SMALL", 0), monkeypatch.setattr(image_file, "TOGETHER", 64)
    most, plain = [], image_module.in_eight_bits
    monkeypatch.setattr(
        image_module, "in_eight_bits", lambda *given: most.append(image_file._decoding[0]) or plain(*given)
    )
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(10):
            Image.fromarray(RAMP).save(tmp_path / name / f"{i}.png")
    folder(tmp_path)
    assert most == [64] * 20 and image_file._decoding == [0]


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path, monkeypatch):
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "JPEG", progressive=True)
    (tmp_path / "x.jpg").write_bytes(file.getvalue())
    assert read_image(tmp_path / "x.jpg", 1).shape == (8, 8, 1)
    monkeypatch.setattr(image_file, "SCANNED", 64)
    refused(
        r"x.jpg: not a readable image \(\d+ scans of 8 x 8 pixels\); save it again", read_image, tmp_path / "x.jpg", 1
    )


def test_what_is_no_file_is_never_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "y.png").mkdir()
    refused("x.png: not a regular file; give a plain file", read_image, tmp_path / "x.png", 3)
    refused("y.png: not a regular file", read_image, tmp_path / "y.png", 3)
    refused("z.png: not a readable image .No such file or directory.; replace", read_image, tmp_path / "z.png", 3)
    name = os.fsdecode(b"\xff\x1b[31m.png")
    refused(r"\\udcff\\x1b\[31m.png: not a readable image", read_image, tmp_path / name, 3)


def test_image_processing_makes_a_large_picture_smaller(tmp_path, capsys):
    Image.new("1", (6000, 300)).save(tmp_path / "x.png")
    config = image_processing.Config(image=str(tmp_path / "x.png"), output=str(tmp_path / "y.png"), kernels=("blur",))
    assert image_processing.main(config)["blur"]["grey"].shape == (100, 2000)
    assert "x.png: brought to 100 x 2000 pixels" in capsys.readouterr().out and head(tmp_path / "y.png").size[1] == 1000
    refused(
        "--output x.exe: must end in one of .png", image_processing.main, dataclasses.replace(config, output="x.exe")
    )
