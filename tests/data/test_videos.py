"""Clips: folders of frames, animations and video files; lengths, sampling, and what is refused."""

import importlib.util
import logging
import sys

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn import InputError, runs
from jaxcnn.data import clips
from jaxcnn.runs.source import read_described

SIDE = 8


def frames_of(first, count, side=SIDE):
    """Gray frames whose values rise from frame to frame."""
    return [np.full((side, side, 3), min(first + 10 * i, 250), np.uint8) for i in range(count)]


def write(path, frames, **options):
    """Write a clip as its ending says; without one, as a folder of frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [Image.fromarray(x) for x in frames]
    if path.suffix:
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40, **options)
        return
    path.mkdir()
    for i, picture in enumerate(pictures):
        picture.save(path / f"{i}.png")


@pytest.fixture
def folder(tmp_path):
    """Six clips of each of two classes, with 2 to 7 frames."""
    for label, kind in enumerate(("falls", "rises")):
        for i, end in enumerate(("", ".gif", ".webp", ".png", "", ".gif")):
            options = {"lossless": True} if end == ".webp" else {}
            write(tmp_path / "set" / kind / f"{i}{end}", frames_of(100 * label + i, 2 + i), **options)
    return tmp_path / "set"


def rows_of(splits):
    """All rows by name: frames' values up to their length, and the label."""
    found = {}
    for part in splits:
        for name, image, n, label in zip(
            part.names, *(part.arrays[k] for k in ("image", "length", "label")), strict=True
        ):
            assert not image[n:].any()
            found[name] = image[:n, 0, 0, 0].tolist(), int(label)
    return found


def test_clips_of_every_kind_have_their_frames_in_order(folder):
    splits = jc.data.videos(folder, frames=7)
    assert splits.train.classes == ("falls", "rises") and splits.train.arrays["image"].shape[1:] == (7, SIDE, SIDE, 3)
    found = rows_of(splits)
    assert len(found) == 12
    for i, end in enumerate(("", ".gif", ".webp", ".png", "", ".gif")):
        for label, kind in enumerate(splits.train.classes):
            assert found[f"{kind}/{i}{end}"] == ([100 * label + i + 10 * k for k in range(2 + i)], label)
    assert all(set(part.label) == {0, 1} for part in splits[::2])


def test_frames_are_sorted_by_the_values_of_numbers(tmp_path):
    for kind in "ab":
        write(tmp_path / kind / "clip", frames_of(0, 12))  # 0.png to 11.png
        write(tmp_path / kind / "other", frames_of(5, 2))
    found = rows_of(jc.data.videos(tmp_path, frames=12, validation_fraction=0, test_fraction=0.5))
    assert found["a/clip"][0] == list(range(0, 120, 10))
    assert clips.in_name_order(["b2", "b10", "a", "b02", "7", "1" * 500]) == ["7", "1" * 500, "a", "b02", "b2", "b10"]


def test_long_clips_are_sampled_evenly_or_cropped(folder):
    even = rows_of(jc.data.videos(folder, frames=3))
    assert even["falls/4"][0] == [14, 34, 54]  # the middle frames of three thirds of 6
    splits = jc.data.videos(folder, frames=3, sampling="crop")
    middle = {}
    for part in splits:
        images = part.read(np.arange(part.size))["image"][:, :, 0, 0, 0].tolist()
        middle |= dict(zip(part.names, images, strict=True))
    assert (
        middle["falls/4"] == [14, 24, 34] and middle["falls/1.gif"] == [1, 11, 21] and middle["falls/0"] == [0, 10, 0]
    )
    begins = set()
    for start in range(12):
        batch = splits.train.chunk(splits.train.size, start, 1, 1).at(0)
        image, n = np.asarray(batch["image"])[..., 0, 0, 0], np.asarray(batch["length"])
        assert all((np.diff(x[:k].astype(int)) == 10).all() for x, k in zip(image, n, strict=True))
        begins |= set(image[:, 0].tolist())
        again = splits.train.chunk(splits.train.size, start, 1, 1).at(0)
        np.testing.assert_array_equal(again["image"], batch["image"])  # a resumed run reads the same
    assert len(begins) > splits.train.size


def test_gray_folders_have_one_channel(tmp_path):
    for kind in "ab":
        for i in range(2):
            place = tmp_path / kind / str(i)
            place.mkdir(parents=True)
            for n in range(3):
                Image.fromarray(np.full((4, 4), 20 * n, np.uint8)).save(place / f"{n}.png")
    assert jc.data.videos(tmp_path, frames=2, test_fraction=0.5, validation_fraction=0).train.arrays["image"].shape == (
        2, 2, 4, 4, 1,
    )  # fmt: skip
    colour = jc.data.videos(tmp_path, frames=2, channels=3, test_fraction=0.5, validation_fraction=0)
    assert colour.train.arrays["image"].shape[-1] == 3


def test_parts_are_folders_and_large_sets_are_read_as_needed(folder, tmp_path):
    for part in ("train", "val", "test"):
        for kind in "ab":
            write(tmp_path / "parts" / part / kind / "x", frames_of(30, 3))
    splits = jc.data.videos(tmp_path / "parts", frames=4, resident_bytes=10)
    assert splits.test.names == ("test/a/x", "test/b/x") and isinstance(splits.train, jc.data.Indexed)
    row = splits.valid.example()
    assert row["length"].tolist() == [3] and row["image"][0, :, 0, 0, 0].tolist() == [30, 40, 50, 0]


def test_groups_stay_together(tmp_path):
    for kind in "ab":
        for i in range(6):
            write(tmp_path / kind / f"film{i // 2}_{i}", frames_of(30 + i, 2))
    splits = jc.data.videos(tmp_path, group=r"film(\d)", test_fraction=0.34, validation_fraction=0, frames=2)
    films = [{name.split("film")[1][0] for name in part.names} for part in (splits.train, splits.test)]
    assert films[0].isdisjoint(films[1]) and films[0] | films[1] == {"0", "1", "2"}


def broken(kind):
    """Return a function that makes a folder with a bad clip, and the line that names it."""

    def sizes(top):
        write(top / "falls" / "odd", [*frames_of(0, 2), np.zeros((6, 9, 3), np.uint8)])

    def cut_off(top):
        data = (top / "falls" / "5.gif").read_bytes()
        (top / "falls" / "5.gif").write_bytes(data[:-1])

    def damaged(top):
        (top / "falls" / "2.webp").write_bytes(b"RIFF\x10\0\0\0WEBPxxxx")

    def not_video(top):
        (top / "falls" / "film.mp4").write_bytes(b"\0" * 500)

    def text(top):
        (top / "falls" / "0" / "1.png").write_text("no image")

    return {
        "sizes": (sizes, r"odd: 2.png has \(6, 9\) pixels \(height, width\), 0.png \(8, 8\); give a size"),
        "cut off": (cut_off, r"5.gif: cut off; get the file again, or remove it"),
        "damaged": (damaged, r"2.webp: not a readable image"),
        "not video": (not_video, r"film.mp4: not a readable video"),
        "text": (text, r"1.png: not a readable image"),
    }[kind]


@pytest.mark.parametrize("kind", ["sizes", "cut off", "damaged", "not video", "text"])
def test_bad_clips_are_refused_in_one_line_or_left_out(kind, folder):
    make, line = broken(kind)
    if kind == "not video":
        pytest.importorskip("av")
    make(folder)
    with pytest.raises(InputError, match=line) as caught:
        jc.data.videos(folder, frames=4)
    assert "\n" not in str(caught.value)
    told = []
    splits = jc.data.videos(folder, frames=4, on_bad=lambda text, n: told.append(text))
    assert len(told) == 1 and sum(part.size for part in splits) == 12 - (kind in ("cut off", "damaged", "text"))
    lazy = jc.data.videos(folder, frames=4, resident_bytes=0, on_bad=lambda text, n: None)
    masks = [lazy.train.read(np.arange(lazy.train.size))["row_mask"] for _ in range(1)]
    assert set(masks[0]) <= {0.0, 1.0}


def test_sizes_that_differ_are_resized_when_a_size_is_given(folder):
    broken("sizes")[0](folder)
    write(folder / "falls" / "large.gif", frames_of(0, 2, 12))
    with pytest.raises(InputError, match=r"large.gif: \(12, 12\) pixels .* give a size to resize them to"):
        jc.data.videos(folder, on_bad=None, frames=4)
    splits = jc.data.videos(folder, frames=4, size=(6, 5))
    assert splits.train.arrays["image"].shape[1:] == (4, 6, 5, 3) and sum(p.size for p in splits) == 14


def test_still_images_are_told_and_are_no_videos(folder, tmp_path, caplog):
    write(folder / "falls" / "still.gif", frames_of(9, 1))
    with caplog.at_level(logging.WARNING):
        found = rows_of(jc.data.videos(folder, frames=3))
    assert found["falls/still.gif"] == ([9], 0) and "1 of 13 clips have a single frame (the first: still" in caplog.text
    for kind in "ab":
        for i in range(3):
            write(tmp_path / "photos" / kind / f"{i}.png", frames_of(i, 1))
    with pytest.raises(InputError, match="photos: no clip has more than one frame; read still images with jc.data.fol"):
        jc.data.videos(tmp_path / "photos")


def test_what_is_missing_is_named(folder, tmp_path):
    (tmp_path / "none").mkdir()
    (folder / "still").mkdir()
    (folder / "still" / "notes.txt").write_text("x")
    for call, line in (
        (lambda: jc.data.videos(tmp_path / "gone"), "gone: no such folder"),
        (lambda: jc.data.videos(tmp_path / "none"), "none: no class folders"),
        (lambda: jc.data.videos(folder), "still: no clips; needs folders of frames, or files"),
        (lambda: jc.data.videos(folder, classes=["rises"]), "classes rises; needs at least two class folders"),
        (lambda: jc.data.videos(folder, frames=0), "frames=0, sampling='even': must be at least 1"),
        (lambda: jc.data.videos(folder, sampling="odd"), "sampling='odd': must be at least 1, and 'even' or 'crop'"),
        (lambda: jc.data.videos(folder, channels=2), "channels=2: must be 1 or 3"),
        (lambda: jc.data.videos(folder, classes=["falls", "rises"], frames=9**9), "more than 268,435,456 values; give"),
    ):
        with pytest.raises(InputError, match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_clip_has_at_most_so_many_frames(folder, monkeypatch):
    monkeypatch.setattr(clips, "MOST_FRAMES", 5)
    with pytest.raises(InputError, match="6 frames, more than the 5 that are read|6 frames of 8 x 8 pixels, more than"):
        jc.data.videos(folder)


def test_video_files_need_an_extra(folder, monkeypatch):
    (folder / "falls" / "film.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"film.mp4: video files need PyAV; pip install -e '.\[video\]'"):
        jc.data.videos(folder)


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="needs PyAV")
@pytest.mark.parametrize("end", ["mp4", "avi", "mkv"])
def test_video_files(end, folder):
    import av

    path = folder / "rises" / f"film.{end}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for x in frames_of(20, 9, 16):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(x, format="rgb24")))
        container.mux(stream.encode())
    found = rows_of(jc.data.videos(folder, frames=9, size=8))[f"rises/film.{end}"]
    assert found[1] == 1
    np.testing.assert_allclose(found[0], np.arange(20, 110, 10), atol=4)
    some = rows_of(jc.data.videos(folder, frames=3, size=8))[f"rises/film.{end}"][0]
    np.testing.assert_allclose(some, [30, 60, 90], atol=4)
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 3])
    told = []
    jc.data.videos(folder, frames=3, size=8, on_bad=lambda line, n: told.append(line))
    assert len(told) == 1 and "film" in told[0] and "\n" not in told[0]


def test_a_clip_in_two_classes_is_refused(folder):
    first, other = sorted(p for p in folder.iterdir() if p.is_dir())[:2]
    clip = next(p for p in sorted(first.iterdir()))
    (other / f"again{clip.suffix}").symlink_to(clip)
    with pytest.raises(InputError, match="are the same clip, in two classes; remove one of them"):
        jc.data.videos(folder, size=8)


def test_a_run_reads_them_again_by_their_description(folder):
    options = {"path": str(folder), "frames": 3, "size": [6, 5], "sampling": "even", "seed": 1}
    described = runs.source("videos", options)
    again = read_described(described)
    np.testing.assert_array_equal(again.test.arrays["image"], jc.data.videos(**options).test.arrays["image"])
    bad = runs.source("videos", options | {"frames": "many"})
    with pytest.raises(InputError, match="source that this version cannot read .*frames"):
        read_described(bad)
