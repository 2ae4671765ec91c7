"""`jaxcnn export RUN --to page` and `html`: what the files hold, what their policy allows, and what is refused."""

import base64
import hashlib
import html.parser
import json
import re

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn import InputError
from jaxcnn.cli.main import main
from jaxcnn.deploy import onnx, page
from tests.serving import build, save

CLASSES = ("bee", "</script><script>alert(1)</script>", "<!-- \u202e")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("page") / "run", build((24, 24, 3)), CLASSES)


@pytest.fixture
def runtime(tmp_path):
    """A folder that looks like onnxruntime-web."""
    package = tmp_path / "npm" / "node_modules" / "onnxruntime-web"
    (package / "dist").mkdir(parents=True)
    (package / "package.json").write_text('{"name": "onnxruntime-web", "version": "1.2.3"}')
    for name in (page.SCRIPT, page.LOADER, page.WASM):
        (package / "dist" / name).write_text(f"/* {name} */\r\n")
    return tmp_path / "npm"


class Parsed(html.parser.HTMLParser):
    """The tags of a page, and the text in each script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.open = [], [], False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open = tag in ("script", "style")

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.inside.append((*self.tags[-1], data))

    def policy(self):
        (found,) = [a["content"] for t, a in self.tags if t == "meta" and "http-equiv" in a]
        return dict(one.strip().partition(" ")[::2] for one in found.split(";"))


def digest(text):
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_a_folder_has_all_that_its_page_asks_for(run, runtime, tmp_path):
    made = jc.export(run, "page", tmp_path / "bees", runtime=runtime, rows=3)
    assert made.path == tmp_path / "bees" and made.report["onnxruntime_web"] == "1.2.3"
    names = {p.name for p in made.path.iterdir()}
    assert {name.partition("/")[2] for name in made.report["sha256"]} == names
    found = Parsed((made.path / "index.html").read_text())
    asked = {a.get("src") or a.get("href") for t, a in found.tags if t in ("script", "link")}
    assert {a for a in asked if a and not a.startswith("data:")} == names - {
        "index.html", "network.onnx", page.LOADER, page.WASM
    }  # fmt: skip
    assert found.policy()["default-src"] == "'none'" and found.policy()["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert found.policy()["connect-src"] == "'self'"
    ((_, attributes, text),) = found.inside
    about = json.loads(text)
    assert attributes["type"] == "application/json" and about["classes"] == list(CLASSES)
    assert about["shape"] == [24, 24, 3] and about["run"] == "run" and about["network"] == "network.onnx"
    images = np.zeros((2, 24, 24, 3), np.uint8)
    session = onnx.session((made.path / "network.onnx").read_bytes())
    assert onnx.run(session, {"image": images})["logits"].shape == (2, 3)


def test_one_file_holds_everything_and_may_ask_for_nothing(run, runtime, tmp_path):
    made = jc.export(run, "html", tmp_path / "bees", runtime=runtime / "node_modules", rows=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bees.html", "bees.html.json", "npm"]
    found = Parsed(made.path.read_text())
    assert not [a for t, a in found.tags if "src" in a or t == "link" and not a["href"].startswith("data:")]
    policy = found.policy()
    assert policy["connect-src"] == policy["default-src"] == "'none'"
    held = {a["id"]: text for t, a, text in found.inside if t == "script" and "id" in a}
    assert base64.b64decode(held["runtime"]) == f"/* {page.WASM} */\r\n".encode()
    assert onnx.session(base64.b64decode(held["network"])).get_inputs()[0].name == "image"
    assert json.loads(held["described"])["classes"] == list(CLASSES)
    running = [text for t, a, text in found.inside if t == "script" and "id" not in a]
    assert len(running) == 5 and {digest(text) for text in running} | {"blob:", "'wasm-unsafe-eval'"} == set(
        policy["script-src"].split()
    )
    (style,) = [text for t, _, text in found.inside if t == "style"]
    assert policy["style-src"] == digest(style)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", made.path.read_text())


def test_the_command_says_how_to_get_what_is_missing(run, runtime, tmp_path, capsys):
    def said(*more):
        assert main(["export", str(run), "--out", str(tmp_path / "bees"), *more]) == 2
        return " ".join(capsys.readouterr().err.split())

    assert "run npm install onnxruntime-web, and give --runtime node_modules" in said("--to", "html")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no onnxruntime-web (dist/ort.wasm.min.js)" in said(
        "--to", "page", "--runtime", str(tmp_path / "empty")
    )
    place = runtime / "node_modules" / "onnxruntime-web"
    given = "--to", "html", "--runtime", str(place)
    assert "export: --batch 3: the page predicts one image at a time" in said(*given, "--batch", "3")
    assert "export: --preprocessing outside: the page" in said(*given, "--preprocessing", "outside")
    (place / "dist" / page.SCRIPT).write_text("if ('</SCRIPT>') {}")
    assert "export the run to page instead of html" in said(*given)
    (place / "dist" / page.SCRIPT).write_bytes(b"\xff")
    assert "not UTF-8" in said(*given)
    (place / "dist" / page.WASM).unlink()
    assert "no whole onnxruntime-web" in said(*given)
    (place / "dist" / page.WASM).write_text("")
    (place / "package.json").write_text('{"name": "other", "version": "1"}')
    assert "its package.json is not that of onnxruntime-web" in said(*given)
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("npm", "empty")] == []


@pytest.mark.parametrize("task, model", [("segmentation", "unet"), ("embedding", "cnn")])
def test_other_tasks_are_refused(runtime, tmp_path, task, model):
    about = build((24, 24, 3), task, model) if task == "segmentation" else build((24, 24, 3))
    loaded = jc.load_run(save(tmp_path / "run", about))
    if task == "embedding":
        made = jc.deploy.of_run(loaded)._replace(about={"task": "embedding"})
    else:
        made = jc.deploy.of_run(loaded)
    with pytest.raises(InputError, match=f"for classification and regression of images, not {task}; use jaxcnn serve"):
        jc.export(made, "html", tmp_path / "page", runtime=runtime, rows=2)
    assert not (tmp_path / "page.html").exists()
