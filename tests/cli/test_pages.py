"""The page in a browser: served, as a folder without a server's program, and as one file from disk.

It needs Chromium and Playwright, and for the last two onnxruntime-web: `npm install onnxruntime-web` in the repository,
or its folder in the variable JAXCNN_ONNXRUNTIME_WEB. With JAXCNN_SCREENSHOTS, pictures of the pages go to that folder.
"""

import base64
import contextlib
import functools
import http.server
import io
import json
import os
import pathlib
import shutil
import threading

import numpy as np
import pytest
from PIL import Image

import jaxcnn as jc
from jaxcnn.cli.main import main
from jaxcnn.core.files import Memory
from jaxcnn.data.folder import read_image
from tests.serving import build, save, started

pytestmark = pytest.mark.slow
ROOT = pathlib.Path(__file__).resolve().parents[2]
WAIT = 180_000  # milliseconds that a page has for what a test waits for
FORMS = ("served", "page", "html")
READ = """async ([data, shape, how]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  return [...rowOf(await pixels(new Blob([bytes])), shape, how)];
}"""


def arc(x, y, wide, high, start, end, count=10):
    """Points of an ellipse, by angles in turns from the top, clockwise."""
    turns = 2 * np.pi * np.linspace(start, end, count)
    return [(x + wide * np.sin(a), y - high * np.cos(a)) for a in turns]


# two ways to write each digit, strokes in 0..1
DIGITS = {
    0: [[arc(0.5, 0.5, 0.2, 0.33, 0, 1, 30)], [arc(0.5, 0.5, 0.27, 0.3, 0.9, -0.12, 16)]],
    1: [[[(0.5, 0.18), (0.5, 0.5), (0.5, 0.84)]], [[(0.42, 0.3), (0.56, 0.16), (0.5, 0.5), (0.45, 0.84)]]],
    2: [
        [[(0.3, 0.3), (0.35, 0.2), (0.5, 0.15), (0.64, 0.22), (0.66, 0.36), (0.55, 0.55), (0.3, 0.82), (0.72, 0.82)]],
        [arc(0.48, 0.32, 0.2, 0.18, -0.22, 0.32) + [(0.42, 0.66), (0.26, 0.8)],
         [(0.26, 0.8), (0.5, 0.78), (0.76, 0.84)]],
    ],
    3: [
        [[(0.32, 0.2), (0.5, 0.15), (0.65, 0.25), (0.62, 0.4), (0.46, 0.47), (0.64, 0.55), (0.68, 0.7), (0.55, 0.83),
          (0.32, 0.8)]],
        [arc(0.46, 0.32, 0.17, 0.15, -0.2, 0.5), arc(0.46, 0.64, 0.21, 0.17, 0, 0.68)],
    ],
    4: [
        [[(0.36, 0.16), (0.3, 0.52), (0.7, 0.52)], [(0.64, 0.18), (0.62, 0.85)]],
        [[(0.3, 0.2), (0.27, 0.45), (0.4, 0.53), (0.66, 0.46)], [(0.68, 0.15), (0.64, 0.5), (0.56, 0.86)]],
    ],
    5: [
        [[(0.68, 0.17), (0.38, 0.17), (0.35, 0.45), (0.55, 0.42), (0.68, 0.55), (0.65, 0.74), (0.5, 0.84),
          (0.32, 0.8)]],
        [[(0.4, 0.2), (0.36, 0.46)] + arc(0.46, 0.62, 0.2, 0.18, -0.1, 0.62), [(0.4, 0.2), (0.7, 0.17)]],
    ],
    6: [
        [[(0.6, 0.15), (0.45, 0.3), (0.36, 0.55), (0.38, 0.76), (0.52, 0.84), (0.66, 0.74), (0.64, 0.58), (0.5, 0.52),
          (0.38, 0.62)]],
        [[(0.56, 0.14), (0.4, 0.4)] + arc(0.5, 0.66, 0.17, 0.17, -0.28, -1.15, 13)],
    ],
    7: [
        [[(0.3, 0.18), (0.7, 0.18), (0.58, 0.5), (0.46, 0.85)]],
        [[(0.27, 0.22), (0.45, 0.2), (0.74, 0.19), (0.6, 0.42), (0.5, 0.62), (0.44, 0.86)], [(0.4, 0.52), (0.7, 0.5)]],
    ],
    8: [
        [[(0.62, 0.24), (0.5, 0.16), (0.38, 0.26), (0.46, 0.42), (0.62, 0.58), (0.64, 0.75), (0.5, 0.84), (0.37, 0.74),
          (0.42, 0.56), (0.58, 0.42), (0.63, 0.28), (0.6, 0.22)]],
        [arc(0.5, 0.31, 0.15, 0.15, 0.5, 1.5, 13), arc(0.5, 0.65, 0.19, 0.19, 0, 1, 13)],
    ],
    9: [
        [[(0.64, 0.3), (0.52, 0.17), (0.38, 0.26), (0.4, 0.42), (0.54, 0.47), (0.65, 0.32), (0.64, 0.55),
          (0.58, 0.85)]],
        [arc(0.48, 0.33, 0.17, 0.17, 0.2, -0.8, 13) + [(0.65, 0.45), (0.64, 0.84)]],
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on MNIST, from part of an epoch, or the one that JAXCNN_DIGITS names."""
    from tests.conftest import SHARED

    if given := os.environ.get("JAXCNN_DIGITS"):
        return pathlib.Path(given)
    if not (SHARED / "mnist").is_dir():
        pytest.skip("MNIST is not here")
    folder = tmp_path_factory.mktemp("digits")
    flags = ("--max-steps", "900", "--batch-size", "64", "--devices", "1", "--augment", "digits")
    assert main(["train", str(SHARED / "mnist"), "--workdir", str(folder), *flags]) == 0
    run = next(folder.iterdir())
    assert json.loads((run / "summary.json").read_text())["test"]["accuracy"] >= 0.985
    return run


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here")
    with api.sync_playwright() as begun:
        with contextlib.closing(begun.chromium.launch(executable_path=path, args=["--no-sandbox"])) as made:
            yield made


@pytest.fixture(scope="module")
def runtime():
    folder = pathlib.Path(os.environ.get("JAXCNN_ONNXRUNTIME_WEB") or ROOT / "node_modules" / "onnxruntime-web")
    if not (folder / "dist").is_dir():
        pytest.skip("onnxruntime-web is not here")
    return str(folder)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, without lines in the terminal."""

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def files_of(folder):
    """Give the files of a folder to browsers, as `python -m http.server` does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module", params=FORMS)
def place(request, digits, tmp_path_factory):
    """A form of the page of the digits, and its address."""
    form = request.param
    if form == "served":
        with started(digits) as made:
            made.server.ready()
            yield form, f"http://127.0.0.1:{made.server.port}/"
        return
    folder, given = tmp_path_factory.mktemp(form), ["--runtime", request.getfixturevalue("runtime"), "--rows", "8"]
    assert main(["export", str(digits), "--to", form, "--out", str(folder / "digits"), *given]) == 0
    if form == "html":
        yield form, (folder / "digits.html").as_uri()
    else:
        with files_of(folder / "digits") as where:
            yield form, where


@pytest.fixture
def opened(place, browser):
    """The page of the digits; what went wrong on it, and what it asked for, is looked at in the end."""
    form, where = place
    with contextlib.closing(browser.new_page(viewport={"width": 360, "height": 740})) as page:
        page.set_default_timeout(WAIT)
        errors, asked = [], []
        page.on("request", lambda one: asked.append(one.url))
        page.on("console", lambda one: errors.append(one.text) if one.type in ("error", "warning") else None)
        page.on("pageerror", lambda one: errors.append(str(one)))
        page.goto(where)
        page.wait_for_selector("#draw:not([hidden])")
        yield form, page
        assert not errors
        assert all(url.startswith((where.rpartition("/")[0], "blob:", "data:")) for url in asked)
        if form == "html":
            assert [url for url in asked if not url.startswith(("blob:", "data:"))] == [where]


def draw(page, strokes):
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        for i, (x, y) in enumerate(stroke):
            page.mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
            if not i:
                page.mouse.down()
        page.mouse.up()


def answered(page):
    page.wait_for_selector("#status:has-text('The network says')")


def predicted(capsys, run, *paths):
    capsys.readouterr()
    assert main(["predict", str(run), *map(str, paths)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def bars(page):
    """Return the classes and shares that the page shows."""
    items = page.locator("ol.bars").first.locator("li").all()
    return {one.locator("span").first.text_content(): one.locator(".share").text_content() for one in items}


def test_digits_are_recognised_with_the_scores_of_predict(opened, digits, tmp_path, capsys):
    form, page = opened
    page.locator("#pad").scroll_into_view_if_needed()
    right, paths, shown, given = 0, [], [], []
    for number in range(20):
        digit = number % 10
        draw(page, DIGITS[digit][number // 10])
        answered(page)
        page.click("#send")
        page.evaluate("new Promise((done) => at('seen').toBlob(async (b) => done(await predict([b]))))")  # the last one
        png = page.evaluate("at('seen').toDataURL('image/png')").partition(",")[2]
        found = page.evaluate("new Promise((done) => at('seen').toBlob(async (b) => done(await predictions([b]))))")
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(base64.b64decode(png))
        given.append(found["predictions"][0])
        shown.append(bars(page))
        right += page.locator("article h3").first.text_content().startswith(f"{digit},")
        page.click("#clear")
    assert right >= 18
    for known, one, text in zip(predicted(capsys, digits, *paths), given, shown, strict=True):
        assert one["class"] == known["class"]
        within = 0 if form == "served" else 2e-6  # both are rounded to six digits
        np.testing.assert_allclose(
            [one["probabilities"][k] for k in known["probabilities"]], [*known["probabilities"].values()], 0, within
        )
        assert text == {k: f"{100 * p:.2f} %" for k, p in one["probabilities"].items()}


def test_everything_is_reached_by_keyboard_alone(opened, digits, tmp_path, capsys):
    form, page = opened
    page.on("filechooser", lambda chooser: None)  # choosers are caught from now on, not a moment after the key
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 40, 4)).astype(np.uint8)).convert("RGB").save(tmp_path / "other.png")
    order = []
    for _ in range(12):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
        if order[-1] == "pad":
            for key in (" ", *["ArrowDown"] * 12, " ", "Enter"):
                page.keyboard.press(key)
            answered(page)
            page.wait_for_selector("article h3:has-text('1,')")
        if order[-1] == "clear":
            page.keyboard.press("Enter")
            page.wait_for_selector("article", state="detached")
        if order[-1] == "file":
            with page.expect_file_chooser() as chosen:
                page.keyboard.press("Enter")
            chosen.value.set_files(tmp_path / "other.png")
            answered(page)
            break
    assert order == ["pad", "send", "clear", "file"]
    (known,) = predicted(capsys, digits, tmp_path / "other.png")
    assert page.locator("article h2").first.text_content() == "other.png"
    shown = bars(page)
    assert list(shown) == sorted(shown, key=known["probabilities"].get, reverse=True)
    for name, p in known["probabilities"].items():
        within = 0.006 if form == "served" else 1  # a resized pixel may differ by 1 of 255
        assert abs(float(shown[name].removesuffix(" %")) - 100 * p) <= within
    if form == "served":
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "What speaks for it?"
        page.keyboard.press("Enter")
        page.wait_for_selector(".explained img")


def test_it_suits_narrow_and_wide_light_and_dark_screens(opened):
    form, page = opened
    draw(page, DIGITS[3][1])
    answered(page)
    for width, scheme in ((320, "light"), (360, "dark"), (1100, "light"), (1100, "dark")):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        if folder := os.environ.get("JAXCNN_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/{form}-{width}-{scheme}.png", full_page=True)


def test_sounds_are_chosen_played_and_named(browser, tmp_path, capsys):
    from tests.cli.test_train_signals import RATE, tone, tones, train

    sf = pytest.importorskip("soundfile")
    run = train(tones(tmp_path / "tones"), tmp_path, "--augment", "none")
    sf.write(tmp_path / "high.wav", tone(1, 0.4, np.random.default_rng(0)), RATE)
    (known,) = predicted(capsys, run, tmp_path / "high.wav")
    with started(run) as made, contextlib.closing(browser.new_page(viewport={"width": 320, "height": 700})) as page:
        made.server.ready()
        errors = []
        page.on("console", lambda one: errors.append(one.text) if one.type in ("error", "warning") else None)
        page.goto(f"http://127.0.0.1:{made.server.port}/")
        page.wait_for_selector("#sound:not([hidden])")
        with page.expect_file_chooser() as chosen:
            page.focus("#sound-file")
            page.keyboard.press("Enter")
        chosen.value.set_files(tmp_path / "high.wav")
        answered(page)
        assert page.locator("article h3").first.text_content() == f"high, {100 * known['probability']:.2f} %"
        assert bars(page) == {k: f"{100 * p:.2f} %" for k, p in known["probabilities"].items()}
        assert page.locator("ol.windows li").count() == len(known["windows"]) > 1
        page.wait_for_function("document.querySelector('article audio').duration > 0.39")  # it can be played
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth") and not errors


@pytest.fixture
def alone(browser, runtime, tmp_path):
    """A function from a run to its page, as one file."""
    pages = []

    def open_page(run):
        out = tmp_path / f"{len(pages)}"
        assert main(["export", str(run), "--to", "html", "--out", str(out), "--runtime", runtime, "--rows", "4"]) == 0
        pages.append(browser.new_page())
        pages[-1].set_default_timeout(WAIT)
        pages[-1].goto(out.with_name(f"{out.name}.html").as_uri())
        pages[-1].wait_for_selector("#photo:not([hidden])")
        return pages[-1]

    yield open_page
    for page in pages:
        page.close()


def test_files_become_the_pixels_that_the_library_reads(alone, tmp_path):
    page = alone(save(tmp_path / "run", build((24, 24, 3))))
    rng = np.random.default_rng(1)
    for size in ((24, 24), (7, 5), (31, 90), (301, 77)):
        for channels in (1, 3):
            pixels = rng.integers(0, 256, (*size, channels)).astype(np.uint8).squeeze()
            made = io.BytesIO()
            Image.fromarray(pixels).save(made, "PNG")
            for resize, ratio in (("squash", 1.0), ("crop", 1.0), ("crop", 0.7), ("pad", 1.0)):
                for shape in ((24, 24, 3), (11, 30, 1)):
                    known = read_image(Memory("a.png", made.getvalue()), shape[2], shape[:2], resize, ratio)
                    data = base64.b64encode(made.getvalue()).decode()
                    how = {"resize": resize, "crop_ratio": ratio}
                    found = page.evaluate(READ, [data, list(shape), how])
                    # versions of Pillow differ in which axis comes first
                    resized = size != shape[:2]
                    np.testing.assert_allclose(np.reshape(found, shape), known.astype(int), 0, 1 if resized else 0)
    pixels = rng.integers(0, 256, (24, 24, 4)).astype(np.uint8)  # see-through in parts
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    known = read_image(tmp_path / "clear.png", 3)
    data = base64.b64encode((tmp_path / "clear.png").read_bytes()).decode()
    found = page.evaluate(READ, [data, [24, 24, 3], {"resize": "squash", "crop_ratio": 1}])
    np.testing.assert_allclose(np.reshape(found, (24, 24, 3)), known.astype(int), 0, 2)


@pytest.mark.parametrize("kind", ["multilabel", "sigmoid", "regression", "floats"])
def test_other_answers(alone, tmp_path, capsys, kind):
    classes = ("10", "<b>2</b>") if kind == "sigmoid" else ("10", "2", "</script>")
    more = {"head": kind} if kind in ("multilabel", "sigmoid") else {}
    task = "regression" if kind == "regression" else "classification"
    outputs = {"sigmoid": 1, "regression": 2}.get(kind, 3)
    about = build((24, 24, 3), task, options={"num_classes": outputs}, **more)
    if kind == "floats":
        about["image"]["dtype"] = "float32"
    run = save(tmp_path / "run", about, () if task == "regression" else classes)
    page = alone(run)
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(tmp_path / "a.png")
    (known,) = predicted(capsys, run, tmp_path / "a.png")
    page.set_input_files("#file", tmp_path / "a.png")
    page.wait_for_selector("article")
    data = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    ask = "async (data) => (await predictions([new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))])]))"
    found = page.evaluate(ask, data)["predictions"][0]
    assert found.keys() == known.keys() and found.get("class") == known.get("class")
    assert found.get("labels") == known.get("labels")
    for key in ("values", "probabilities"):
        if key in known:
            values = [*known[key].values()] if key == "probabilities" else known[key]
            mine = [found[key][name] for name in known[key]] if key == "probabilities" else found[key]
            np.testing.assert_allclose(mine, values, 1e-5, 2e-6)
    (tmp_path / "b.png").write_bytes(b"no image")
    page.set_input_files("#file", tmp_path / "b.png")
    page.wait_for_selector("#status.bad")
    assert page.text_content("#status") == "b.png: not an image that this browser reads"


def test_a_folder_from_disk_says_how_to_open_it(browser, runtime, tmp_path):
    run = save(tmp_path / "run", build((24, 24, 3)))
    made = jc.export(run, "page", tmp_path / "bees", runtime=runtime, rows=4)
    assert sorted(p.name for p in made.path.iterdir()) == [
        "alone.js", "drawing.js", "index.html", "network.onnx", "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm", "ort.wasm.min.js", "page.css", "page.js", "pixels.js",
    ]  # fmt: skip
    with contextlib.closing(browser.new_page()) as page:
        page.goto((made.path / "index.html").as_uri())
        page.wait_for_selector("#status.bad")
        assert "python -m http.server" in page.text_content("#status")
