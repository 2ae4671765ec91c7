"""Labelling over HTTP: labels, skips and undo, the CSV file, orders, a run that suggests, and what is refused."""

import contextlib
import json
import logging
import os
import socket
import threading
import types

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.deploy.label import labels as kept
from jaxcnn.deploy.label.app import LIMITS, application, begin, label, locked
from jaxcnn.deploy.label.order import check_run, ordered, spread
from jaxcnn.deploy.label.renewal import decided
from jaxcnn.methods import active
from tests.serving import CLASSES, Server, build, png, save

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
TOKEN = "a-token-of-the-tests"


class Page(Server):
    """The requests of the page."""

    def __init__(self, port, token=TOKEN, name=""):
        super().__init__(port)
        self.token, self.named = token, {"x-page": name}

    def get(self, path):
        return self.ask("GET", path, headers={"authorization": f"Bearer {self.token}"} | self.named)

    def post(self, path, **fields):
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        return self.ask("POST", path, json.dumps(fields), headers | self.named)

    def give(self, session, number, label):
        """Answer an image as the page does, which says what it shows."""
        before, by = session.at(number) or (None, None)
        seen = {"number": number, "file": session.names[number], "before": before, "by": by}
        return self.post("/label", label=label, **seen)


def shown(found):
    """What a page says of the image that it shows."""
    return {name: found[name] for name in ("number", "file", "before", "by")}


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
            found = page.give(session, found["number"], name)[1]
            assert kept.read(path).rows[seen[-1]] == name and found["labelled"] == len(seen)
    assert sorted(seen) == ["0.png", "1.png", "2.png", "3.png", "4.png", 'more/a, "b".png']
    splits = jc.data.table(path, size=8, validation_fraction=0.34, test_fraction=0.34)
    assert splits.train.classes == ("cat", "dog") and sum(part.size for part in splits) == 6
    again = begin(str(folder), path, token=TOKEN)  # the classes of the file; nothing is left to ask for
    assert sorted(again.classes) == ["cat", "dog"] and again.next() is None
    path.write_text(path.read_text().replace("0.png,", "elsewhere.png,"))  # a label is taken back in an editor
    again.refresh()
    assert again.names[again.next()] == "0.png"


def test_a_file_that_was_emptied_costs_no_label(folder):
    path = folder / "labels.csv"
    session = begin(str(folder), path, classes=("cat", "dog"), token=TOKEN)
    with page_of(session) as page:
        first = page.get("/next")[1]
        page.give(session, first["number"], "cat")
        path.write_text("")  # such as a program that could not save
        second = page.get("/next")[1]
        page.give(session, second["number"], "dog")
    assert kept.read(path).rows == {first["file"]: "cat", second["file"]: "dog"}


def test_skips_and_undo(folder):
    session = begin(str(folder), folder / "labels.csv", classes=("x",), token=TOKEN)
    with page_of(session) as page:
        assert page.post("/undo")[0] == 422
        first = page.get("/next")[1]["number"]
        second = page.give(session, first, None)[1]
        assert second["number"] != first and second["skipped"] == 1 and not (folder / "labels.csv").exists()
        third = page.give(session, second["number"], "x")[1]
        assert page.post("/class", name=" y ")[1]["classes"] == ["x", "y"]
        page.give(session, second["number"], "y")  # another answer for the same image
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
        whole = {"number": 0, "file": session.names[0], "before": None, "by": None, "label": "x"}
        labels = [
            (whole | {"number": 6}, "from 0 to 5"), (whole | {"number": True}, "from 0"),
            (whole | {"number": -1}, "from 0"), (whole | {"label": "z"}, "is not listed"),
            (whole | {"label": ["x"]}, "is not listed"), (whole | {"more": 1}, "label, number"),
            *(({k: v for k, v in whole.items() if k != key}, "label, number") for key in whole),
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


def test_what_another_program_writes_is_kept(folder):
    path = folder / "labels.csv"
    session = begin(str(folder), path, classes=("cat", "dog"), token=TOKEN)
    with page_of(session) as page:
        page.give(session, 0, "dog")
        page.give(session, 1, "dog")
        path.write_text("file,label\n0.png,cat\n1.png,dog\n3.png,owl\n")
        found = page.give(session, 2, "cat")[1]
        assert found["classes"] == ["cat", "dog", "owl"] and found["labelled"] == 4
        assert kept.read(path).rows == {"0.png": "cat", "1.png": "dog", "3.png": "owl", "2.png": "cat"}
        os.utime(path, (1, 1))  # nothing but the time has changed
        page.give(session, 2, None)  # what was given before the change is not taken back
        assert page.post("/undo")[0] == 200 and page.post("/undo")[0] == 200 and page.post("/undo")[0] == 422
        assert kept.read(path).rows == {"0.png": "cat", "1.png": "dog", "3.png": "owl"}
        path.write_text("file,label\n0.png,cat\n0.png,dog\n")
        status, found = page.give(session, 2, "cat")
        assert status == 409 and "comes twice" in found["error"] and "nothing was written" in found["error"]
        path.unlink()
        assert page.give(session, 2, "cat")[0] == 200 and len(kept.read(path).rows) == 4


def test_pages_show_different_images_and_take_back_their_own_labels(folder):
    session = begin(str(folder), folder / "labels.csv", classes=("cat", "dog"), token=TOKEN)
    with page_of(session) as page:
        other = Page(page.port, name="other")
        first, second = page.get("/next")[1]["number"], other.get("/next")[1]["number"]
        assert first != second and page.get("/next")[1]["number"] == first
        page.give(session, first, "cat")
        other.give(session, second, "dog")
        name = session.names[first]
        seen = {"number": first, "file": name, "label": "dog"}
        for before in ({"before": None, "by": None}, {"before": "cat", "by": "model"}):
            status, found = other.post("/label", **seen, **before)
            line = f"{name} was labelled cat by a person in the meantime; nothing was written"
            assert status == 409 and found["error"] == line
        status, found = other.post("/label", **seen | {"file": "a_new.png"}, before="cat", by="person")
        assert status == 409 and "numbers its images differently" in found["error"]
        assert page.post("/undo")[1]["number"] == first and session.at(second) == ("dog", "person")
        third = (set(range(6)) - {first, second}).pop()
        page.give(session, third, "cat")
        page.give(session, first, "cat")
        other.give(session, first, "dog")
        status, found = page.post("/undo")
        assert status == 409 and "relabelled in the meantime" in found["error"] and session.at(first)[0] == "dog"
        assert page.post("/undo")[1]["number"] == third  # the one before can still be taken back
        session.skipped |= set(range(6)) - {third}
        assert {p.get("/next")[1]["number"] for p in (page, other)} == {third}  # the last one, for whoever is there


def test_a_full_disk_changes_nothing(folder, monkeypatch):
    session = begin(str(folder), folder / "labels.csv", classes=("x",), token=TOKEN)

    def full(labels):
        raise OSError(28, "No space left on device")

    with page_of(session) as page:
        page.give(session, 0, "x")
        monkeypatch.setattr(kept, "write", full)
        status, found = page.give(session, 1, "x")
        assert status == 507 and "nothing was changed" in found["error"]
        assert page.get("/next")[1]["labelled"] == 1 and page.post("/undo")[0] == 507
        monkeypatch.undo()
        assert page.post("/undo")[1]["labelled"] == 0  # it was not lost
        page.give(session, 0, "x")
        assert page.give(session, 1, "x")[1]["labelled"] == 2
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
    assert session.order.rows.tolist() == [*sorted(free, key=gap), session.names.index("2.png")]
    cover = begin(str(folder), folder / "labels.csv", run=str(run), order="coreset", token=TOKEN).order.rows
    assert sorted(cover.tolist()) == [*range(6)] and cover[-1] == session.names.index("2.png")


@pytest.fixture(scope="module")
def dropping(tmp_path_factory):
    """A run whose network has dropout."""
    about = build((24, 24, 3), model="lenet5", options={"num_classes": 3, "dropout": 0.5})
    return save(tmp_path_factory.mktemp("run") / "run", about, scale=1)


def test_images_on_which_dropout_disagrees_come_first(folder, dropping):
    session = begin(str(folder), folder / "labels.csv", run=str(dropping), order="bald", seed=3, token=TOKEN)
    loaded = jc.load_run(dropping)
    image = np.stack([jc.runs.single.pixels(loaded.config, path) for path in session.images])
    rows = jc.data.Resident({"image": image, "label": np.zeros(6, np.int32)}, CLASSES)
    scores = active.bald(active.dropout_samples(loaded.task, loaded.variables, rows, 20, seed=3, batch_size=6))
    assert session.order.name == "bald" and session.order.rows.tolist() == np.argsort(-scores).tolist()
    assert session.order.shares is not None  # the run suggests a class too


def test_images_that_follow_each_other_differ():
    """Two useful heaps and a useless one: by score alone, the first heap comes first; and so do not its copies here."""
    rng = np.random.default_rng(0)
    heaps = np.eye(3)[np.repeat([0, 1, 2], 20)] + 0.01 * rng.normal(size=(60, 3))
    scores = np.repeat([1.0, 0.9, 0.0], 20) + 0.001 * rng.random(60)
    found = spread(scores, heaps, [], [], 4)
    assert sorted(found.tolist()) == list(range(60))
    assert set(found[:2] // 20) == {0, 1} and found[0] == scores.argmax()
    assert not set(found[:4]) & set(range(40, 60)) and set(active.highest(scores, 4) // 20) == {0}
    taken = spread(scores, heaps, [0, 1], [21], 3)  # the first heap has labels, so that the other one is far from them
    assert taken[0] // 20 == 1 and not set(taken) & {0, 1, 21}


def test_labels_renew_the_order(folder, tmp_path_factory):
    run = save(tmp_path_factory.mktemp("run") / "run", build((24, 24, 3)))
    path = folder / "labels.csv"
    session = begin(str(folder), path, run=str(run), renew=2, diverse=True, token=TOKEN)
    assert session.order.vectors.shape[0] == 6 and session.options.different == 2
    before = session.order.shares.copy()
    with page_of(session) as page:
        first = page.get("/next")[1]
        assert first["renewed"] == 0
        page.post("/class", name="owl")
        second = page.give(session, first["number"], "owl")[1]
        assert second["renewed"] == 0 and "owl" not in second["suggested"]
        third = page.give(session, second["number"], "dog")[1]
        assert third["renewed"] == 1 and set(third["suggested"]) == {*CLASSES, "owl"}
        head = active.linear_head(
            session.order.vectors,
            [first["number"], second["number"]],
            [3, 2],
            4,
            prior=np.pad(before, ((0, 0), (0, 1))),
        )
        np.testing.assert_allclose(session.order.shares, head, atol=1e-6)
        assert (
            session.order.shares[first["number"], 3] > 1e-3 and session.order.rows.tolist().count(third["number"]) == 1
        )
        left = {*range(6)} - {first["number"], second["number"]}
        assert set(session.order.rows[:4].tolist()) == left
        page.post("/undo")
        assert page.get("/next")[1]["number"] == third["number"] and session.labelled == 1
        session.skipped |= left  # what was taken back is still shown
        assert page.get("/next")[1]["number"] == second["number"]
        session.skipped -= left
        fourth = page.give(session, second["number"], "owl")[1]
        assert fourth["renewed"] == 1  # one class alone teaches nothing
    path.write_text(path.read_text().replace("owl", "cat", 1))
    again = begin(str(folder), path, run=str(run), renew=50, token=TOKEN)
    assert again.renewed == 1 and page_numbers(again) == 4


def page_numbers(session):
    """How many images are left to show."""
    return sum(not session.labels.person(session.names[i]) for i in session.order.rows)


def rows_of_a_run(shape, count=60):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (count, *shape)).astype(np.uint8)


def test_a_run_answers_what_it_is_sure_of(folder, tmp_path, tmp_path_factory, monkeypatch):
    """The threshold is that of the validation rows; the answers are marked, and shown after the others."""
    from jaxcnn.deploy.label import renewal

    run = save(tmp_path_factory.mktemp("run") / "run", build((24, 24, 3)))
    loaded, images = jc.load_run(run), rows_of_a_run((24, 24, 3))
    p = np.asarray(jc.tasks.probabilities(loaded.task.predict(loaded.variables, {"image": images})))
    middle = 0.87  # some of the images lie on either side
    label = np.where(p.max(1) >= middle, p.argmax(1), (p.argmax(1) + 1) % 3).astype(np.int32)  # right if it is sure
    rows = jc.data.Resident({"image": images, "label": label}, CLASSES)
    monkeypatch.setattr(renewal, "read_data", lambda config: jc.data.Splits(rows, rows, rows))
    path = folder / "labels.csv"
    path.write_text("file,label\n3.png,cat\n")
    session = begin(str(folder), path, run=str(run), reject=0.0, token=TOKEN)
    sure = {
        name: session.classes[share.argmax()]
        for name, share in zip(session.names, session.shares, strict=True)
        if share.max() >= np.float32(middle) - 1e-6 and name != "3.png"
    }
    assert 0 < len(sure) < 5, "the images of the test do not suit"
    written = kept.read(path)
    assert written.rows == {"3.png": "cat"} | sure and written.model == set(sure) and written.marked
    assert path.read_text().startswith("file,label,by\n3.png,cat,person\n")
    asked = []
    with page_of(session) as page:
        found = page.get("/next")[1]
        assert found["labelled"] == 1 and found["by_model"] == len(sure)
        while found["by"] is None:
            asked.append(found["file"])
            found = page.give(session, found["number"], "dog")[1]
        assert not set(asked) & set(sure) and len(asked) == 5 - len(sure) and found["before"] == sure[found["file"]]
        name, number = found["file"], found["number"]
        found = page.give(session, number, "bee")[1]
        assert kept.read(path).rows[name] == "bee" and name not in kept.read(path).model
        found = page.post("/undo")[1]
        assert found["number"] == number and found["before"] == sure[name] and name in kept.read(path).model
        page.give(session, number, None)
        assert kept.read(path).model == set(sure)  # an answer that is skipped stays
    splits = jc.data.table(path, size=8, validation_fraction=0.34, test_fraction=0.34)
    assert sum(part.size for part in splits) == 6
    people = {name: label for name, label in kept.read(path).rows.items() if name not in sure}
    monkeypatch.setattr(renewal, "read_data", lambda config: jc.data.Splits(rows, wrong_rows(rows, p), rows))
    path.write_text(path.read_text() + "elsewhere/7.png,bee,model\n")
    begin(str(folder), path, run=str(run), reject=0.0, token=TOKEN)  # earlier answers go, those of people stay
    assert kept.read(path).rows == people | {"elsewhere/7.png": "bee"}  # and those for images of other folders
    assert kept.read(path).model == {"elsewhere/7.png"}


def wrong_rows(rows, p):
    label = ((p.argmax(1) + 1) % 3).astype(np.int32)
    return jc.data.Resident({**rows.arrays, "label": label}, CLASSES)


def test_a_run_without_validation_rows_answers_nothing(tmp_path):
    run = save(tmp_path / "run", build((24, 24, 3)))
    with pytest.raises(jc.InputError, match="--reject 0.1: the run's validation rows cannot be read") as caught:
        decided(jc.load_run(run), np.full((2, 3), 1 / 3), frozenset(), 0.1)
    assert "\n" not in str(caught.value)


def test_orders_without_a_run(folder):
    (folder / "broken.png").write_bytes(b"no image")
    images = sorted(p for p in folder.rglob("*.png"))
    broken, said = images.index(folder / "broken.png"), []
    found = ordered(images, [0], "auto", say=said.append)
    assert found.name == "coreset" and sorted(found.rows[:-1].tolist()) == sorted({*range(7)} - {0, broken})
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
        ("file,label\na.png,x\n./a.png,y\n", "line 3: a.png comes twice"),
        ("file,label\na.png,\n", "line 2: class ''"),
        ("name\na.png\n", "no column 'file'"),
        ("file,label\na.png,x\nb.png,3\n", "classes 'x' and '3': must all be numbers, or all be text"),
        ("file,label,by\na.png,x,person\nb.png,x,Bob\n", "line 3: by 'Bob': must be person or model"),
    ],
)
def test_files_that_are_not_continued(tmp_path, content, line):
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(jc.InputError, match=line) as caught:
        kept.read(tmp_path / "labels.csv")
    assert "\n" not in str(caught.value)


def test_paths_have_one_form_and_a_header_alone_has_no_rows(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(f"file,label\n./a.png,x\n{tmp_path / 'b.png'},y\nc/../d.png,z\n")
    assert list(kept.read(path).rows) == ["a.png", "b.png", "d.png"]
    for header in ("\ufefffile,label\n", "label,file\n", "file,label,by"):
        path.write_text(header)
        assert not kept.read(path).rows


@pytest.mark.parametrize("about", [None, build((24, 24, 3), "regression"), build((24, 24, 3), head="multilabel")])
def test_runs_that_give_no_image_a_class_are_refused(about):
    loaded = types.SimpleNamespace(config={"build": about, "classes": list(CLASSES)})
    with pytest.raises(jc.InputError, match="--run R: must be a classification of images"):
        check_run(loaded, "R")


def test_bad_arguments_are_one_line(folder, tmp_path_factory, capsys):
    from jaxcnn.cli.main import main

    run = str(save(tmp_path_factory.mktemp("run") / "run", build((24, 24, 3))))
    pair = str(save(tmp_path_factory.mktemp("run") / "run", build((24, 24, 3), options={"num_classes": 1},
                                                                  head="sigmoid"), ("a", "b")))  # fmt: skip
    (folder / "labels.csv").write_text("")
    for flags, line in (
        ([], "DATA: give a folder"),
        ([str(folder / "none")], "no such folder"),
        ([str(folder), "--order", "best"], "--order 'best': unknown"),
        ([str(folder), "--order", "entropy"], "needs the predictions of a run"),
        ([str(folder), "--port", "70000"], "--port 70000"),
        ([str(folder), "--classes", " a"], "class ' a'"),
        ([str(folder), "--classes", "cat", "3"], "classes 'cat' and '3': must all be numbers"),
        ([str(folder), "--output", str(folder / "none" / "x.csv")], "there is no folder"),
        ([str(folder), "--run", str(folder)], "not a run's folder"),
        ([str(folder), "--order", "bald"], "--order bald: needs the predictions of a run"),
        ([str(folder), "--order", "bald", "--run", run], "has no dropout; train with --dropout 0.5"),
        ([str(folder), "--order", "bald", "--run", pair], "needs a logit for each class"),
        ([str(folder), "--renew", "-1"], "--renew -1: must be at least 1"),
        ([str(folder), "--renew", "5"], "--renew 5: needs the features"),
        ([str(folder), "--renew", "5", "--run", run, "--order", "bald"], "--renew 5: goes with --order entropy"),
        ([str(folder), "--diverse"], "--diverse: needs the features"),
        ([str(folder), "--diverse", "--run", run, "--order", "random"], "--diverse: goes with --order entropy"),
        ([str(folder), "--reject", "0.1"], "--reject 0.1: needs the features or predictions"),
        ([str(folder), "--reject", "2", "--run", run], "--reject 2.0: must be from 0 to 1"),
        ([str(folder), "--reject", "0.1", "--run", run], "the run's validation rows cannot be read"),
    ):
        assert main(["label", *flags]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert line in said, said
    for given, line in (
        ({"classes": "cat"}, "classes='cat': must be a list of names"), ({"seed": -1}, "--seed -1"),
        ({"port": 70000}, "--port 70000: must be from 0 to 65535"),
    ):  # fmt: skip
        with pytest.raises(jc.InputError, match=line):
            label(str(folder), **given)


def test_links_lead_to_the_same_file(folder, tmp_path_factory, monkeypatch):
    """Of a folder and of the file with the labels, so that names in it lead to the images."""
    from jaxcnn.deploy.label import app

    monkeypatch.setattr(app, "run_here", lambda make, *rest: sessions.append(make.args[0]))
    place, sessions = tmp_path_factory.mktemp("other"), []
    (place / "images").symlink_to(folder)
    (place / "real").mkdir()
    (place / "real" / "l.csv").write_text("")
    (place / "linked.csv").symlink_to(place / "real" / "l.csv")
    label(str(place / "images"), output=str(place / "linked.csv"), classes=("cat", "dog"))
    for number, name in enumerate(("cat", "dog")):
        app._write(sessions[0], number, (name, kept.PERSON))
    assert (place / "linked.csv").is_symlink() and len(kept.read(place / "real" / "l.csv").rows) == 2
    label(str(folder), output=str(place / "real" / "l.csv"))
    assert not sessions[1].labelled  # names lead from the folder of the file that is given
    (place / "again.csv").write_text(f"file,label\n{place}/images/{sessions[0].names[2]},cat\nimages/4.png,dog\n")
    label(str(folder), output=str(place / "again.csv"))
    assert sessions[2].labelled == 2 and sessions[2].labels.rows.keys() <= set(sessions[2].names)
    assert all((place / name).is_file() for name in sessions[2].labels.rows)
