"""Reports: figures equal references, one dict feeds page and card, nothing is loaded, and bad input gives one line."""

import contextlib
import copy
import dataclasses
import html.parser
import importlib
import json
import pathlib
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import jaxcnn as jc
from experiments import binary, cifar10, mnist, transfer
from jaxcnn import report, runs
from jaxcnn.explain.panels import explained, strip, tinted
from jaxcnn.report import dense, record, svg
from jaxcnn.report.__main__ import command, main
from jaxcnn.report.compare import paired
from jaxcnn.report.style import CSS
from tests.small import Plain, rows

measuring = importlib.import_module("jaxcnn.report.measure")  # the package has a function of this name
SIGNALS = types.SimpleNamespace(stop=lambda: False, while_training=contextlib.nullcontext)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A trained run of 300 digits."""
    config = mnist.Config(
        dataset="digits", model="mlp", augment=False, ema=0.0, limit_examples=300, batch_size=32, epochs=3, devices=1,
        workdir=str(tmp_path_factory.mktemp("runs")),
    )  # fmt: skip
    return pathlib.Path(mnist.main(config, SIGNALS, [])["checkpoint"])


@pytest.fixture(scope="module")
def made(finished):
    """Its report, as the command leaves it."""
    assert command([str(finished)]) == 0
    return json.loads((finished / "report.json").read_text())


class Page(html.parser.HTMLParser):
    """Collects the opened tags, and checks that they are closed in turn."""

    VOID = {"meta", "link", "img", "br", "line", "circle", "rect", "path", "polyline"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.inside = [], [], {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for above in self.open:
            self.inside.setdefault(above, []).append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, *tags):
        return [attrs for tag, attrs in self.tags if tag in tags]


def needs_nothing(text):
    """No address but those inside the page, and no other way to fetch."""
    page = Page(text)
    addresses = [
        v
        for _, attrs in page.tags
        for k, v in attrs.items()
        if k in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert addresses and all(a.startswith(("data:", "#")) or "://" not in a for a in addresses)
    assert not re.search(r"url\(|@import|https?://|<script|<iframe|<object|<embed", text)
    return page


def test_the_page_is_whole_and_readable_without_sight_or_colour(finished, made):
    text = (finished / "report.html").read_text()
    page = needs_nothing(text)
    assert {a["href"] for a in page.all("a")} == {f"#{s['id']}" for s in page.all("section")}
    drawings = [s for s in page.all("svg") if s.get("role") == "img"]
    assert len(drawings) == 6 and text.count("<title>") == 7 and len(page.all("desc")) == 6
    pictures = sum(map(len, made["examples"].values())) + len(made["explanations"])
    assert len(page.all("img")) == pictures > 14 and all(i["alt"] for i in page.all("img"))
    assert all(t["aria-label"] for t in page.all("table")) and all(th.get("scope") for th in page.all("th"))
    assert all(d.get("tabindex") == "0" and d["aria-label"] for d in page.all("div") if d.get("class") == "scroll")
    for needed in ("prefers-color-scheme: dark", "@media print", "width=device-width", 'lang="en"'):
        assert needed in text
    assert len(text) < 200_000


def test_the_report_has_the_figures_of_the_run(finished, made):
    summary = json.loads((finished / "summary.json").read_text())
    values = made["test"]["metrics"]
    assert values["count"] == 300 and values["accuracy"] == pytest.approx(summary["test"]["accuracy"], abs=1e-9)
    assert (
        values["f1_macro"] == pytest.approx(summary["test"]["f1_macro"])
        and made["test"]["confusion"] == summary["test"]["confusion"]
    )
    assert values["log_loss"] == pytest.approx(summary["test"]["loss"], rel=1e-5) and made["test"]["notes"] == []
    assert made["curves"][-1]["split"] == "test" and made["command"] and made["environment"]["trained with"]["jax"]
    wrong = made["examples"]["mistakes"]
    assert [e["confidence"] for e in wrong] == sorted((e["confidence"] for e in wrong), reverse=True)
    assert all(e["true"] != e["predicted"] for e in wrong) and all(
        e["true"] == e["predicted"] for e in made["examples"]["doubtful"]
    )


def test_shown_images_are_those_rows(finished, made, tmp_path):
    test = runs.read_data(runs.read_config(finished)).test
    for entry in made["examples"]["mistakes"][:2] + made["examples"]["doubtful"][:2]:
        with Image.open(_saved(tmp_path, entry["image"])) as image:
            assert (np.asarray(image) == test.arrays["image"][entry["row"], ..., 0]).all()
        assert str(test.arrays["label"][entry["row"]]) == entry["true"]


def _saved(folder, address):
    import base64

    (folder / "x.png").write_bytes(base64.b64decode(address.split(",")[1]))
    return folder / "x.png"


def test_the_card_has_the_same_numbers(finished, made):
    card, page = (finished / "MODEL_CARD.md").read_text(), (finished / "report.html").read_text()
    for name in (
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations",
    ):  # fmt: skip
        assert f"\n## {name}\n" in card
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in card.splitlines()
        if line.startswith("| ")
    }
    values = made["test"]["metrics"]
    assert float(cells["accuracy"][0]) == pytest.approx(values["accuracy"], abs=5e-5)
    assert cells["test rows"][0] == "300" and float(cells["log loss"][0]) == pytest.approx(values["log_loss"], abs=5e-5)
    for row in made["test"]["per_class"]:
        found = cells[row["class"]]
        assert int(found[0]) == row["count"]
        exact = [row[k] for k in ("precision", "recall", "f1", "roc_auc", "pr_auc")]
        assert [float(x) for x in found[1:]] == pytest.approx(exact, abs=5e-5)
        assert all(f">{x}</td>" in page for x in found)
    assert report.card(made) == card and report.page(made) == page  # nothing but the dict


def lines(history):
    out = []
    for row in history:
        for split in ("train", "validation"):
            values = {k.removeprefix(f"{split}/"): v for k, v in row.items() if k.startswith(f"{split}/")}
            out.append({"split": split, "step": row["step"], "epoch": row["step"], **values})
    return out


def trained(train, valid, rate, steps):
    task = jc.tasks.classification(Plain(), mean=0.3, std=0.3)
    tx = optax.adam(rate)
    run = jc.compile_step(jc.make_train_step(task, tx), "jit")
    ev = jc.compile_step(jc.make_eval_step(task), "jit")
    check = lambda state: {f"validation/{k}": v for k, v in jc.evaluate(ev, state.variables, valid).items()}
    fitted = jc.fit(
        run, jc.init_state(task, tx, train.example()), train, batch_size=32, steps=steps, every=steps // 4,
        validate=check,
    )  # fmt: skip
    return report.diagnose(lines(fitted.history), 0.3)["verdict"]


def test_three_trained_runs_give_three_verdicts():
    train, valid = rows(192, seed=1), rows(768, seed=2)
    noise = np.random.default_rng(9).integers(0, 4, 64).astype(np.int32)
    # labels that mean nothing
    lucky = jc.data.Resident({"image": rows(64).arrays["image"], "label": noise}, train.classes)
    assert trained(train, valid, 1e-2, 120) == "good"
    assert trained(train, valid, 1e-6, 24) == "underfit"
    assert trained(lucky, valid, 1e-2, 120) == "overfit"


def curve(train, valid, accuracy=(0.99, 0.98)):
    shared = lambda k, loss: {"step": k, "epoch": k, "loss": loss, "count": 10**4}
    kinds = zip(("train", "validation"), (train, valid), accuracy, strict=True)
    return [
        {"split": split, "accuracy": share, **shared(k, x)}
        for split, values, share in kinds
        for k, x in enumerate(values)
    ]


@pytest.mark.parametrize(
    "found, verdict",
    [
        (curve([1.0, 0.2, 5.0], [1.0, 0.3, 4.0]), "diverged"),
        (curve([1.0, float("nan")], [1.0, 0.9]), "diverged"),
        (curve([1.0, 0.3, 0.1, 0.01], [0.5, 0.30, 0.35, 0.50]), "overfit"),  # by the loss
        (curve([1.0, 0.3, 0.2], [0.5, 0.30, 0.32]), "good"),
        (curve([1.0, 0.3, 0.2], [0.5, 0.3, 0.2], (0.99, 0.90)), "overfit"),  # by the accuracy
        (curve([1.0, 0.9], [1.0, 0.9], (0.5, 0.5)), "underfit"),
        (curve([1.0, 0.9], [1.0, 0.9], (0.6, 0.98)), "good"),  # augmented training images are harder
        ([], "unknown"),
        (curve([1.0, 0.9], [1.0, 0.9], (0.9, None)), "unknown"),  # an accuracy that was NaN
    ],
)
def test_diagnosis_of_curves(found, verdict):
    said = report.diagnose(found, 0.1)
    assert said["verdict"] == verdict and said["why"] and "Overfit: training accuracy" in said["rule"]


def test_a_test_set_of_another_kind_is_no_good_fit():
    found = curve([1.0, 0.3, 0.2], [0.5, 0.3, 0.2])
    verdicts = {
        case: report.diagnose(found, 0.1, tested=case)["verdict"]
        for case in ((0.97, 10**4), (0.9, 10), (0.9, 10**4), (0.3, 10))
    }
    assert list(verdicts.values()) == ["good", "good", "shifted", "shifted"]  # ten rows tell little
    unknown = report.diagnose(curve([1.0, 0.9], [0.9, 0.9]), None)  # other rows were measured
    assert unknown["verdict"] == "good" and "Other data were measured" in unknown["why"]
    assert "Test accuracy is 30.0 %, 68.0 points below it." in report.diagnose(found, 0.1, tested=(0.3, 10))["why"]


def test_groups_by_hand():
    predicted = np.array([1, 1, 0, 0, 1, 0, 0, 0])
    label = np.array([1, 1, 0, 0, 1, 1, 0, 0])
    group = np.array(list("aaaabbbb"))
    found = report.by_group(predicted, label, group, ("no", "yes"), "site")
    assert [(g["group"], g["count"], g["accuracy"]) for g in found["groups"]] == [("a", 4, 1.0), ("b", 4, 0.75)]
    assert found["worst"] == "b" and found["gap"] == 0.25
    assert found["demographic_parity"] == {"difference": 0.25, "class": "yes"}  # chosen 2 of 4, and 1 of 4
    assert found["equalised_odds"] == {"difference": 0.5, "class": "yes"}  # of the positives 2 of 2, and 1 of 2
    # no negatives: only one rate to compare
    alone = report.by_group(predicted, np.ones(8, int), group, ("no", "yes"), "site")
    assert alone["equalised_odds"]["difference"] == 0.25
    three = report.by_group(
        np.array([0, 1, 2, 0]), np.array([0, 1, 2, 2]), np.array([1, 1, 2, 2]), ("x", "y", "z"), "site"
    )
    # x: 1/2 and 1/2, y: 1/2 and 0, z: 0 and 1/2
    assert three["demographic_parity"] == {
        "difference": 0.5,
        "class": "y",
    }
    # taken for x where it is not: 0 of 1, and 1 of 2
    assert three["equalised_odds"] == {
        "difference": 0.5,
        "class": "x",
    }
    with pytest.raises(jc.InputError, match="3 values for 8 test rows"):
        report.by_group(predicted, label, group[:3], ("no", "yes"), "site")
    with pytest.raises(jc.InputError, match="1 different values; needs 2 to 50"):
        report.by_group(predicted, label, np.zeros(8), ("no", "yes"), "site")


def test_a_planted_bias_is_found(finished, tmp_path, rng):
    tested = report.predict(jc.load_run(finished), runs.read_data(runs.read_config(finished)).test)
    wrong = tested.logits.argmax(-1) != tested.label
    site = np.where(wrong | (np.arange(300) % 5 == 0), "new scanner", "old scanner")
    (tmp_path / "groups.csv").write_text("site,nurse\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(site)))
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert command([str(run), "--group-file", str(tmp_path / "groups.csv"), "--group", "site"]) == 0
    (found,) = json.loads((run / "report.json").read_text())["test"]["slices"]
    assert found["worst"] == "new scanner" and found["groups"][1]["accuracy"] == 1
    assert found["gap"] == pytest.approx(wrong.sum() / (site == "new scanner").sum()) and found["gap_p"] == 0.001
    lots = [
        report.by_group(~wrong + 0, np.ones(300, int), rng.integers(0, 3, 300), ("no", "yes"), "lot")["gap_p"]
        for _ in range(40)
    ]
    assert 0.3 < np.mean(lots) < 0.7 and np.mean(np.array(lots) < 0.05) < 0.2
    for name in ("report.html", "MODEL_CARD.md"):
        assert "new scanner" in (run / name).read_text()


def test_scores_that_say_nothing_are_said_in_words(made):
    label = np.zeros(20, np.int32)
    alone = report.measure(np.ones((20, 2)), label, ("cat", "dog"))
    assert alone["metrics"]["roc_auc_macro"] is None and "undefined: no test row is of this" in " ".join(alone["notes"])
    constant = report.measure(np.ones((20, 2)), label + np.arange(20) % 2, ("cat", "dog"))
    assert constant["metrics"]["roc_auc_macro"] == 0.5 and "all equal and separate nothing" in constant["notes"][0]
    for values in (alone, constant):
        shown = {
            **made,
            "classes": ["cat", "dog"],
            "test": {**made["test"], **{k: v for k, v in values.items() if k != "chosen"}},
        }
        text, card = report.page(report.record.plain(shown)), report.card(report.record.plain(shown))
        needs_nothing(text)
        assert values["notes"][0] in text and values["notes"][0] in card
        assert ("undefined" in text) == (values is alone)


def test_what_no_report_can_be_made_of():
    with pytest.raises(jc.InputError, match="2 of 3 test rows have outputs that are not finite"):
        report.measure(np.array([[1, np.nan], [0, 1], [np.inf, 0]]), np.array([0, 1, 1]), "ab")
    with pytest.raises(jc.InputError, match="one label per row"):
        report.measure(np.ones((3, 2)), np.ones((3, 2)), "ab", head="multilabel")
    with pytest.raises(jc.InputError, match="none of the 2 test rows has a label from 0 to 1"):
        report.measure(np.ones((2, 2)), np.array([-1, 2]), "ab")
    for shape, head in (((2, 3), "softmax"), ((2, 1), "softmax"), ((2, 2), "sigmoid"), ((3, 2), "softmax")):
        with pytest.raises(jc.InputError, match="logits of shape .* for 2 labels of 2 classes"):
            report.measure(np.ones(shape), np.array([0, 1]), "ab", head=head)


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_every_number_equals_scikit_learn(outputs, monkeypatch):
    """Of one logit, two classes and five; the library's metrics get the rows in parts."""
    import sklearn.metrics as sk

    rng, k = np.random.default_rng(outputs), max(outputs, 2)
    label = rng.integers(0, k, 200)
    logits = (rng.normal(size=(200, outputs)) * 2).astype(np.float32)
    logits[np.arange(200), label if outputs > 1 else 0] += 2 * label if outputs == 1 else 2
    both = np.concatenate([0 * logits, logits], -1) if outputs == 1 else logits
    p = np.exp(both.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    monkeypatch.setattr(measuring, "AT_ONCE", 64 * outputs)
    head = "sigmoid" if outputs == 1 else "softmax"
    found = report.measure(logits, label, [f"c{i}" for i in range(k)], head=head)
    values, guess = found["metrics"], p.argmax(-1)
    wanted = {
        "count": 200, "accuracy": sk.accuracy_score(label, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(label, guess),
        "f1_macro": sk.f1_score(label, guess, average="macro"), "log_loss": sk.log_loss(label, p),
        "brier": sk.brier_score_loss(label, p[:, 1] if k == 2 else p, labels=range(k), scale_by_half="auto"),
        "roc_auc_macro": np.mean([sk.roc_auc_score(label == c, p[:, c]) for c in range(k)]),
        "pr_auc_macro": np.mean([sk.average_precision_score(label == c, p[:, c]) for c in range(k)]),
    }  # fmt: skip
    assert {key: values[key] for key in wanted} == pytest.approx(wanted, rel=1e-6)
    place = np.ceil(p.max(-1) * 15)  # ECE by its definition
    gaps = [
        (place == b).mean() * abs((guess == label)[place == b].mean() - p.max(-1)[place == b].mean())
        for b in np.unique(place)
    ]
    assert values["ece"] == found["reliability"]["ece"] == pytest.approx(sum(gaps), rel=1e-5)
    assert [b["count"] for b in found["reliability"]["bins"]] == np.unique(place, return_counts=True)[1].tolist()
    assert found["confusion"] == sk.confusion_matrix(label, guess).tolist()
    assert all(
        found["intervals"][key][0] < values[key] < found["intervals"][key][1]
        for key in ("accuracy", "log_loss", "roc_auc_macro")
    )
    assert [c["area"] for c in found["roc"]] == (
        [pytest.approx(sk.roc_auc_score(label, p[:, 1]))] if k == 2 else [c["area"] for c in found["roc"]]
    )
    assert [row["roc_auc"] for row in found["per_class"]] == pytest.approx(
        [sk.roc_auc_score(label == c, p[:, c]) for c in range(k)]
    )


def test_curves_are_named_for_how_many_there_are(made, monkeypatch):
    monkeypatch.setattr(measuring, "SAMPLES", 2)

    def said(logits, label, head="softmax"):
        names = ["cat", "dog", "eel"][: max(logits.shape[1], 2)]
        found = report.measure(logits, label, names, head=head)
        shown = made | {"classes": names, "test": made["test"] | {k: v for k, v in found.items() if k != "chosen"}}
        return re.findall(r"<desc>(?:ROC|Precision and recall) of (.*?):", report.page(report.record.plain(shown)))

    label = np.arange(30) % 3
    noisy = np.eye(3)[label] + np.random.default_rng(0).normal(size=(30, 3))
    assert said(noisy, label) == ["the 3 classes with the smallest areas, each against the rest"] * 2
    assert (
        said(noisy[:, :1], label % 2, "sigmoid")
        == said(noisy[:, :2], label % 2)
        == ["the second class, the positive one"] * 2
    )
    assert said(np.eye(3)[label] * 9, label) == ["the class with the smallest area, against the rest"] * 2


def test_rows_whose_label_is_no_class_count_nowhere():
    label, logits = np.array([0, 1, -1, 1, 0, 255]), np.array([[2.0, 0], [0, 1], [9, 0], [1, 0], [3, 0], [0, 9]])
    kept = np.flatnonzero((label >= 0) & (label < 2))
    site = np.array(list("aabbbb"))
    found = report.measure(logits, label, ("cat", "dog"), groups={"site": site})
    expected = report.measure(logits[kept], label[kept], ("cat", "dog"), groups={"site": site[kept]})
    assert found["notes"][0] == "2 of 6 test rows have an invalid label (-1, 255) and do not count."
    assert found["metrics"] == expected["metrics"] and found["slices"] == expected["slices"]
    assert [e["row"] for e in found["chosen"]["mistakes"]] == [3] and [
        e["row"] for e in found["chosen"]["doubtful"]
    ] == [1, 0, 4]


def test_many_classes_and_strange_names_stay_small_and_safe(rng, made):
    names = [f"<i>{k}</i> & |" for k in range(150)]
    label = rng.integers(0, 150, 600)
    logits = rng.normal(size=(600, 150)) + 3 * np.eye(150)[label]
    found = report.measure(logits, label, names)
    assert found["confusion"] is None and len(found["confused"]) == 20
    shown = made | {"classes": names, "test": made["test"] | {k: v for k, v in found.items() if k != "chosen"}}
    text = report.page(report.record.plain(shown))
    assert "<i>" not in text and "&lt;i&gt;0" in text and len(text) < 300_000
    needs_nothing(text)


def test_explanations_come_as_pictures(finished, tmp_path):
    seen = []

    def explain(loaded, images, predicted):
        seen.append((loaded.config["experiment"], images.shape, predicted.shape))
        return {"Grad-CAM of row <1>": np.zeros((8, 8, 3), np.uint8)}

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    main([str(run)], explain)
    assert seen == [("mnist", (4, 8, 8, 1), (4,))]
    chosen = json.loads((run / "report.json").read_text())["examples"]
    names = ", ".join(e["predicted"] for e in (chosen["mistakes"] + chosen["doubtful"])[:4])
    assert f'<p class="name">Grad-CAM of row &lt;1&gt;, for {names}</p>' in (run / "report.html").read_text()


def test_strips_tint_what_speaks_for_and_against():
    maps = np.array([[[1.0, 0.0], [-1.0, 0.5]]])
    colours = tinted(maps)[0]
    np.testing.assert_allclose(colours, [[[1, 0, 0], [1, 1, 1]], [[0, 0, 1], [1, 0.5, 0.5]]], atol=0.01)
    made = strip(np.stack([colours, colours]))
    assert made.shape == (96, 2 * 96 + 2, 3) and made.dtype == np.uint8
    assert (made[:, 96:98] == 255).all() and (made[:48, 98:146] == made[0, 0]).all()


def test_the_page_explains_what_the_network_allows(finished, made):
    titles = [e["title"] for e in made["explanations"]]
    assert titles[0] == "Images" and not any("Grad-CAM" in title for title in titles)  # a perceptron has no places left
    assert any("Integrated gradients" in title for title in titles)
    loaded = runs.load_run(finished)
    images = np.random.default_rng(0).integers(0, 17, (2, 8, 8, 1)).astype(np.uint8)
    mine, other = (explained(loaded, images, np.array(target)) for target in ([3, 3], [4, 4]))
    assert np.array_equal(mine["Images"], other["Images"]) and any(
        (mine[title] != other[title]).any() for title in titles[1:]
    )


def test_runs_side_by_side(finished, tmp_path, capsys):
    names = [tmp_path / "one", tmp_path / "two"]
    for path in names:
        shutil.copytree(finished, path)
    config = json.loads((names[1] / "config.json").read_text())
    config["settings"]["seed"] = 7
    (names[1] / "config.json").write_text(json.dumps(config))
    assert command([*map(str, names), "--out", str(tmp_path / "c.html")]) == 0
    text = (tmp_path / "c.html").read_text()
    page = needs_nothing(text)
    assert [a["href"] for a in page.all("a") if "#" not in a["href"]] == ["one/report.html", "two/report.html"]
    assert re.search(r"--seed</th><td[^>]*>0</td><td[^>]*>7</td>", text) and "--batch-size" not in text
    assert ">1.0000</td>" in text  # no row distinguishes them
    assert "c.html: 2 runs" in capsys.readouterr().out


def test_only_the_same_rows_are_paired(made):
    other = copy.deepcopy(made)
    other["test"]["sha256"] = "another"
    right = np.array([True, True, False, False])
    pairs = report.paired([made, other, made], [right, ~right, np.array([True, True, True, True])])
    assert [(p["first"], p["second"], p["only_a"], p["only_b"]) for p in pairs] == [(0, 2, 0, 2)]
    assert "no paired test" in report.compare([made, other], [])


BAD = {
    "empty": (lambda run: shutil.rmtree(run) or run.mkdir(), [], "not a run's folder"),
    "unfinished": (
        lambda run: (run / "summary.json").unlink(),
        [],
        "not finished (no summary.json); finish it with python -m",
    ),
    "damaged summary": (lambda run: (run / "summary.json").write_text("{"), [], "summary.json: damaged"),
    "cut summary": (
        lambda run: (run / "summary.json").write_text('{"test": {}}'),
        [],
        "summary.json: damaged, it has no 'parameters'",
    ),
    "unknown source": (
        lambda run: _edit(run, lambda c: c["source"]["options"].update(x=1)),
        [],
        "no such option in this version",
    ),
    "damaged log": (
        lambda run: (run / "metrics.jsonl").write_text('{"split": "train", "step": 1, "epoch": 1}\n{'),
        [],
        "line 2 is",
    ),
    "no log": (lambda run: (run / "metrics.jsonl").unlink(), [], "no metrics.jsonl"),
    "damaged config": (lambda run: (run / "config.json").write_text("[]"), [], "not a run's folder"),
    "a study": (lambda run: (run / "summary.json").write_text('{"points": []}'), [], "has no test result"),
    "old": (
        lambda run: _edit(run, lambda c: (c.pop("source"), c["settings"].clear())),
        [],
        "does not say how the data were read",
    ),
    "other data": (
        lambda run: _edit(run, lambda c: c["data"]["rows"].__setitem__(2, 299)),
        [],
        "300 rows, but the run was tested on 299",
    ),
    "unknown column": (lambda run: None, ["--group", "nurse"], "--group nurse: no such column in the data"),
    "batch": (lambda run: None, ["--batch-size", "0"], "--batch-size 0: must be at least 1"),
}


def _edit(run, change):
    config = json.loads((run / "config.json").read_text())
    change(config)
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(finished, tmp_path, capsys, name):
    damage, more, line = BAD[name]
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run)
    assert command([str(run), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("jaxcnn.report: ") and line in said
    if name != "batch":
        assert str(run) in said or "--group" in said


def test_bad_columns_are_one_line(finished, tmp_path, capsys):
    for name, text, more, line in (
        ("g.csv", "site,nurse\na,b\n", [], "it has columns site, nurse; choose with --group"),
        ("g.csv", "site,nurse\na,b\n", ["--group", "age"], "no such column in"),
        ("g.csv", "site,nurse\na\n", [], "lines of different lengths"),
        ("g.json", "[1]", [], "no readable column of groups"),
        ("g.json", '{"site": ["a"]}', [], "1 values for 300 test rows"),
        ("g.json", '{"site": "abc"}', [], "site: input should be a valid list, not 'abc'"),
        ("g.json", '{"site": [["a"]]}', [], "no readable column of groups"),
        ("g.json", "[" * 10**5, [], "nested too deeply"),
        ("g.csv", "site,site\na,b\n", [], "two columns are named site"),
        ("g.csv", '"' + "x" * 2**18, [], "field larger than field limit"),
        ("none.csv", None, [], "no readable column of groups"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        assert command([str(finished), "--group-file", str(tmp_path / name), *more]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and line in said, said


def test_another_result_is_said(finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    summary = json.loads((run / "summary.json").read_text())
    summary["test"]["accuracy"] = 0.5
    (run / "summary.json").write_text(json.dumps(summary))
    assert command([str(run)]) == 0
    assert "the data or the weights changed" in (run / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("kind", [record.make, report.general])
def test_the_seed_of_a_private_run_is_in_no_report(finished, made, kind):
    run = record.read_finished(finished)
    command = "python -m experiments.private_mnist data --seed 987654321 --epsilon 3"
    config = run.config | {"command": command, "settings": run.config["settings"] | {"seed": 987654321}}
    train = run.summary["train"] | {"epsilon": 2.5}
    run = run._replace(config=config, summary=run.summary | {"seed": 987654321, "private": True, "train": train})
    what = made["test"] | {"chosen": {"mistakes": [], "doubtful": []}, "notes": []} if kind == record.make else finished
    found = kind("run", run, what)
    for text in (json.dumps(found), report.page(found), report.card(found)):
        assert "987654321" not in text and "epsilon 2.50 was spent" in text
    again = kind("run", run._replace(summary=run.summary | {"private": False}), what)
    assert "987654321" in report.card(again) and "--seed &#x27;kept" not in report.page(again)


def test_every_experiment_says_how_its_data_were_read(tmp_path, monkeypatch, rng):
    for part, n in (("train", 8), ("test", 3)):
        for k in range(2):
            (tmp_path / "data" / part / f"c{k}").mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(90 * k, 255, (12, 12)).astype(np.uint8)).save(
                    tmp_path / "data" / part / f"c{k}" / f"{i}.png"
                )
    image, label = rng.integers(0, 255, (20, 28, 28), dtype=np.uint8), np.arange(20) % 2
    np.savez(tmp_path / "d.npz", x_train=image, y_train=label, x_test=image[:7], y_test=label[:7])
    monkeypatch.chdir(tmp_path)
    plans = [
        mnist.plan(mnist.Config(dataset="digits", model="mlp")),
        mnist.plan(mnist.Config(dataset="d.npz", model="mlp")),
        cifar10.plan(cifar10.Config(dataset="data", image_size=16, widths=(8,), validation_fraction=0.2)),
        binary.plan(binary.Config(folder="data", image_size=24)),
        transfer.plan(transfer.Config(folder="data", model="mlp", image_size=10)),
    ]
    monkeypatch.chdir("/")
    for plan in plans:
        config = json.loads(json.dumps({
            "source": plan.source, "settings": {}, "classes": list(plan.data.test.classes),
            "data": {"name": plan.dataset, "rows": [part.size for part in plan.data]},
        }))  # fmt: skip
        again = runs.read_data(config)
        for before, after in zip(plan.data, again, strict=True):
            jax.tree.map(np.testing.assert_array_equal, dict(before.arrays), dict(after.arrays))
    (tmp_path / "data").rename(tmp_path / "moved")
    with pytest.raises(jc.InputError, match="no such folder"):
        runs.read_data(config)
    assert runs.read_data(config, str(tmp_path / "moved")).test.size == 6


def luminance(colour):
    part = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_colours_can_be_told_from_the_page_and_lines_without_colour():
    themes = [
        dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", part)) for part in CSS.split("prefers-color-scheme: dark")
    ]
    for theme in themes:
        ends = lambda name, theme=theme: sorted(luminance(theme[key]) + 0.05 for key in (name, "back"))
        contrast = lambda name: ends(name)[1] / ends(name)[0]  # noqa: B023
        # WCAG 2.2
        assert (
            min(contrast(f"s{k}") for k in range(svg.KINDS)) >= 3 and min(map(contrast, ("ink", "soft", "link"))) >= 4.5
        )
    drawn = svg.lines("t", "a", [(str(k), [(0, k), (1, k)]) for k in range(6)], xlabel="x", ylabel="y")
    assert len(set(re.findall(r'class="line s\d" stroke-dasharray="([^"]*)" points', drawn))) == 6
    shapes = {re.sub(r"-?[\d.]+", "", found) for found in re.findall(r'<g class="mark s\d">(.*?)</g>', drawn)}
    assert len(shapes) == 6


def test_ticks_are_round_and_inside():
    for low, high in ((0, 1), (0.93, 1.0), (0, 37), (-3, 2e5), (1e-6, 3e-6)):
        found = svg.ticks(low, high)
        assert 2 <= len(found) <= 8 and low - 1e-12 <= found[0] and found[-1] <= high * (1 + 1e-9)
        assert len({round((b - a) / (high - low), 6) for a, b in zip(found, found[1:], strict=False)}) == 1


def test_pixels_without_a_label_are_in_no_cell():
    logits = jnp.eye(2)[jnp.array([[[0, 1], [1, 1]], [[0, 1], [1, 1]]])]
    task = types.SimpleNamespace(predict=lambda variables, batch: logits)
    loaded = types.SimpleNamespace(task=task, variables={})
    mask = np.array([[[0, 1], [1, -1]], [[0, 1], [255, -1]]], np.int32)
    data = jc.data.Resident({"image": np.zeros((2, 2, 2, 1), np.uint8), "mask": mask}, ("a", "b"))
    for labels in (mask, mask[..., None]):
        held = dataclasses.replace(data, arrays={**data.arrays, "mask": labels})
        assert dense._counts(loaded, held, 2, 2).tolist() == [[[1, 0], [0, 2]], [[1, 0], [0, 1]]]


def test_rows_that_are_read_as_needed_are_known_by_what_they_hold():
    task = types.SimpleNamespace(predict=lambda variables, batch: jnp.zeros((len(batch["label"]), 2)))
    loaded = types.SimpleNamespace(task=task, variables={})

    def streamed(value, key="image", names=("a", "b", "c", "d"), batch_size=256):
        read = lambda index: {
            key: np.full((len(index), 2, 2, 1), value, np.uint8) + index[:, None, None, None].astype(np.uint8),
            "label": index.astype(np.int32) % 2,
        }
        data = jc.data.Indexed(read, 4, ("a", "b"), names=names)
        return record.predict(loaded, data, batch_size=batch_size).sha256

    assert (
        streamed(0) == streamed(0, names=None) == streamed(0, batch_size=3) != streamed(1)
    )  # whatever they are called
    assert streamed(0, "other") == ""
    reports, right = [{"test": {"sha256": ""}}] * 2, [np.array([True, False])] * 2
    assert paired(reports, right) == [] and len(paired([{"test": {"sha256": "x"}}] * 2, right)) == 1
