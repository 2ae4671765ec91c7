"""Labelling over HTTP: labels, skips and undo, the CSV file, orders, a run that suggests, and what is refused."""

import contextlib
import json
import logging
import socket
import threading
import types

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.deploy.label import labels as kept
from jaxcnn.deploy.label.app import LIMITS, application, begin, label, locked
from jaxcnn.deploy.label.order import check_run, ordered
from tests.serving import CLASSES, Server, build, png, save

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
TOKEN = "a-token-of-the-tests"


class Page(Server):
    """The requests of the page."""

    def __init__(self, port, token=TOKEN):
        super().__init__(port)
        self.token = token

    def get(self, path):
        return self.ask("GET", path, headers={"authorization": f"Bearer {self.token}"})

    def post(self, path, **fields):
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        return self.ask("POST", path, json.dumps(fields), headers)


@contextlib.contextmanager
def page_of(session):
    """Serve a session in a thread."""
    import uvicorn

    from jaxcnn.deploy.serving.protocol import patient

    config = uvicorn.Config(application(session), http=patient(LIMITS), loop="asyncio", ws="none", log_config=None,
                            lifespan="off", server_header=False)  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    server, listening = uvicorn.Server(config), socket.socket()
    listening.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        yield Page(listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "more").mkdir()
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    (tmp_path / "more" / 'a, "b".png').write_bytes(png(9, channels=1))
    return tmp_path


def test_labels_are_written_one_by_one_and_read_by_training(folder):
    path = folder / "labels.csv"
    session = begin(str(folder), path, classes=("cat", "dog"), token=TOKEN)
    seen = []
    with page_of(session) as page:
        found = page.get("/next")[1]
        assert found["classes"] == ["cat", "dog"] and found["images"] == 6 and found["labelled"] == 0
        while found["number"] is not None:
            seen.append(found["file"])
            status, picture = page.get(f"/image/{found['number']}")
            assert status == 200 and picture.startswith(b"\x89PNG") and page.headers["content-type"] == "image/png"
            name = ("cat", "dog")[len(seen) % 2]
            found = page.post("/label", number=found["number"], label=name)[1]
            assert kept.read(path).rows[seen[-1]] == name and found["labelled"] == len(seen)
    assert sorted(seen) == ["0.png", "1.png", "2.png", "3.png", "4.png", 'more/a, "b".png']
    splits = jc.data.table(path, size=8, validation_fraction=0.34, test_fraction=0.34)
    assert splits.train.classes == ("cat", "dog") and sum(part.size for part in splits) == 6
    again = begin(str(folder), path, token=TOKEN)  # the classes of the file; nothing is left to ask for
    assert sorted(again.classes) == ["cat", "dog"] and not len(again.order.rows)


def test_skips_and_undo(folder):
    session = begin(str(folder), folder / "labels.csv", classes=("x",), token=TOKEN)
    with page_of(session) as page:
        assert page.post("/undo")[0] == 422
        first = page.get("/next")[1]["number"]
        second = page.post("/label", number=first, label=None)[1]
        assert second["number"] != first and second["skipped"] == 1 and not (folder / "labels.csv").exists()
        third = page.post("/label", number=second["number"], label="x")[1]
        assert page.post("/class", name=" y ")[1]["classes"] == ["x", "y"]
        page.post("/label", number=second["number"], label="y")  # another answer for the same image
        back = page.post("/undo")[1]
        assert back["number"] == second["number"] and list(kept.read(folder / "labels.csv").rows.values()) == ["x"]
        back = page.post("/undo")[1]
        assert back["number"] == second["number"] and back["labelled"] == 0 and back["can_undo"]
        assert not kept.read(folder / "labels.csv").rows
        back = page.post("/undo")[1]
        assert back["number"] == first and back["skipped"] == 0 and not back["can_undo"]
        assert page.get("/next")[1]["number"] == first != third["number"]


def test_what_is_refused_over_http(folder):
    session = begin(str(folder), folder / "labels.csv", classes=("x",), token=TOKEN)
    (folder / "0.png").write_bytes(b"no image")
    broken = session.names.index("0.png")
    with page_of(session) as page:
        for where in ("/", "/label.js", "/label.css", "/page.css"):
            status, content = page.ask("GET", where)
            assert status == 200 and b"http:" not in content and b"https:" not in content
            assert "default-src 'none'" in page.headers["content-security-policy"]
        for path in ("/next", "/image/0"):
            assert page.ask("GET", path)[0] == 401
            assert Page(page.port, "another").get(path)[0] == 401
        assert page.ask("POST", "/label", "{}")[0] == 401 and page.get("/../labels.csv")[0] == 404
        labels = [
            ({"number": 6, "label": "x"}, "from 0 to 5"), ({"number": True, "label": "x"}, "from 0"),
            ({"number": -1, "label": "x"}, "from 0"), ({"label": "x"}, "from 0"),
            ({"number": 0, "label": "z"}, "is not listed"), ({"number": 0, "label": ["x"]}, "is not listed"),
            ({"number": 0, "label": "x", "more": 1}, "label, number"),
        ]  # fmt: skip
        names = [({"name": "\n"}, "print"), ({"name": "a" * 101}, "1 to 100"), ({"name": 3}, "print")]
        bad = [("/label", *one) for one in labels] + [("/class", *one) for one in names]
        bad.append(("/undo", {"a": 1}, "nothing"))
        for where, fields, line in bad:
            status, found = page.post(where, **fields)
            assert status == 422 and line in found["error"] and "\n" not in found["error"], (fields, found)
        status, found = page.get(f"/image/{broken}")
        assert status == 422 and "skip it" in found["error"]
        assert page.ask("POST", "/label", b"[" * 70_000, {"authorization": f"Bearer {TOKEN}"})[0] == 413
    assert not (folder / "labels.csv").exists()


def test_a_full_disk_changes_nothing(folder, monkeypatch):
    session = begin(str(folder), folder / "labels.csv", classes=("x",), token=TOKEN)

    def full(labels):
        raise OSError(28, "No space left on device")

    with page_of(session) as page:
        page.post("/label", number=0, label="x")
        monkeypatch.setattr(kept, "write", full)
        status, found = page.post("/label", number=1, label="x")
        assert status == 507 and "nothing was changed" in found["error"]
        assert page.get("/next")[1]["labelled"] == 1 and page.post("/undo")[0] == 507
        monkeypatch.undo()
        assert page.post("/label", number=1, label="x")[1]["labelled"] == 2
    assert len(kept.read(folder / "labels.csv").rows) == 2


def test_a_run_suggests_classes_and_orders_images(folder, tmp_path_factory):
    run = save(tmp_path_factory.mktemp("run") / "run", build((24, 24, 3)))
    (folder / "labels.csv").write_text("file,label\n2.png,owl\n")
    session = begin(str(folder), folder / "labels.csv", classes=("dog",), run=str(run), token=TOKEN)
    assert session.classes == ["dog", "bee", "cat", "owl"] and session.order.name == "margin"
    loaded = jc.load_run(run)
    probabilities = {}
    for i, path in enumerate(session.images):
        image = jc.runs.single.pixels(loaded.config, path)
        logits = loaded.task.predict(loaded.variables, {"image": image[None]})
        p = np.asarray(jc.tasks.probabilities(logits))[0]
        probabilities[i] = dict(zip(CLASSES, p, strict=True))
        shown = dict(zip(session.classes, session.order.shares[i], strict=True))
        assert shown["owl"] == 0 and all(abs(shown[k] - probabilities[i][k]) < 1e-5 for k in CLASSES)

    def gap(i):
        top = sorted(probabilities[i].values())
        return top[-1] - top[-2]

    free = [i for i in range(6) if session.names[i] != "2.png"]
    assert session.order.rows.tolist() == sorted(free, key=gap)
    cover = begin(str(folder), folder / "labels.csv", run=str(run), order="coreset", token=TOKEN).order.rows
    assert sorted(cover.tolist()) == free


def test_orders_without_a_run(folder):
    (folder / "broken.png").write_bytes(b"no image")
    images = sorted(p for p in folder.rglob("*.png"))
    broken, said = images.index(folder / "broken.png"), []
    found = ordered(images, [0], "auto", say=said.append)
    assert found.name == "coreset" and sorted(found.rows.tolist()) == sorted({*range(7)} - {0, broken})
    assert len(said) == 1 and "broken.png" in said[0]
    first, second = (ordered(images, [], "random", seed=seed).rows.tolist() for seed in (0, 1))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second


def test_one_process_at_a_time(folder):
    path = folder / "labels.csv"
    with locked(path), pytest.raises(jc.InputError, match="another process writes labels to it; end it first"):
        label(str(folder), output=str(path), classes=("x",))
    with locked(path):
        pass


@pytest.mark.parametrize(
    "content, line",
    [
        ("file,label,split\na.png,x,train\n", "has the columns file, label, split"),
        ("file,label\na.png,x\na.png,y\n", "line 3: a.png comes twice"),
        ("file,label\na.png,\n", "line 2: class ''"),
        ("name\na.png\n", "no column 'file'"),
    ],
)
def test_files_that_are_not_continued(tmp_path, content, line):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(jc.InputError, match=line) as caught:
        kept.read(tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("about", [None, build((24, 24, 3), "regression"), build((24, 24, 3), head="multilabel")])
def test_runs_that_give_no_image_a_class_are_refused(about):
    loaded = types.SimpleNamespace(config={"build": about, "classes": list(CLASSES)})
    with pytest.raises(jc.InputError, match="--run R: must be a classification of images"):
        check_run(loaded, "R")


def test_bad_arguments_are_one_line(folder, capsys):
    from jaxcnn.cli.main import main

    (folder / "labels.csv").write_text("")
    for flags, line in (
        ([], "DATA: give a folder"),
        ([str(folder / "none")], "no such folder"),
        ([str(folder), "--order", "best"], "--order 'best': unknown"),
        ([str(folder), "--order", "entropy"], "needs the predictions of a run"),
        ([str(folder), "--port", "70000"], "--port 70000"),
        ([str(folder), "--classes", " a"], "class ' a'"),
        ([str(folder), "--output", str(folder / "none" / "x.csv")], "there is no folder"),
        ([str(folder), "--run", str(folder)], "not a run's folder"),
    ):
        assert main(["label", *flags]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert line in said, said
