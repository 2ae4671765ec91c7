"""The pages are correct: examples run, and links, commands, flags, names and the table of networks are right."""

import argparse
import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxcnn as jc
from jaxcnn.cli.main import COMMANDS
from jaxcnn.models import MODELS
from jaxcnn.models.__main__ import entry
from jaxcnn.weights.tables import TABLES

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("jaxcnn", "experiments", "tests", ".github")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]
}
ALL = "\n".join(PAGES.values())
README, LIBRARY, ZOO = (PAGES[name] for name in ("README.md", "jaxcnn/README.md", "jaxcnn/models/README.md"))
# a placeholder, and former names in the list of changes
NOT_NAMES = {
    "models.NAME",
    "models.summary",
    "tasks.group_dro",
}

every_page = pytest.mark.parametrize("page", PAGES)


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)[1]


def anchors(text):
    """The names that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text):
    """(module, the rest of the line) of each `python -m MODULE ...`; NAME stands for any."""
    found = re.findall(r"python -m ((?:experiments|jaxcnn|tests)[\w.]*)([^`\n]*)", text)
    return [
        (module, rest.split(" #")[0]) for module, rest in found if "NAME" not in module and not module.endswith(".")
    ]


def subcommands(text):
    """(name, the rest of the line) of each `jaxcnn NAME ...` that is shown as a command."""
    blocks = "\n".join(re.findall(r"```(?:bash|console|text)\n(.*?)```", text, re.DOTALL))
    spans = "\n".join(re.findall(r"`([^`\n]+)`", text))
    found = re.findall(r"^(?:\$ )?jaxcnn ([a-z]+)(.*)$", f"{blocks}\n{spans}", re.MULTILINE)
    return [(name, rest.split(" #")[0]) for name, rest in found]


@functools.cache
def flags_of_subcommand(name):
    module = importlib.import_module(f"jaxcnn.cli.{name}")
    return {field.name for field in dataclasses.fields(getattr(module, name.capitalize()))} | {"help", "help_all"}


def flags(text):
    return {name.removeprefix("no-").replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", text)}


class Parsing(Exception):
    pass


@functools.cache
def flags_of(module):
    """The flags that a command has: the fields of its `Config`, or the options of its parser."""
    name = f"{module}.__main__" if importlib.util.find_spec(module).submodule_search_locations else module
    loaded = importlib.import_module(name)
    config = getattr(loaded, "Config", None)
    if config is None and module.startswith("experiments.studies."):
        config = importlib.import_module("experiments.studies.core").Config
    if config is not None:
        return {field.name for field in dataclasses.fields(config)} | {"help"}

    def stop(parser, *_):
        raise Parsing(parser)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsing) as caught:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        loaded.main()
    return {action.dest for action in caught.value.args[0]._actions}


def test_the_readme_is_short_and_has_its_two_commands():
    assert len(README.splitlines()) < 200
    assert "\npip install -e . && python -m experiments.mnist        # train\n" in README
    assert '\npip install -e ".[test]" && pytest                     # test\n' in README


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, *_ = python_blocks(README)
    assert len(code.strip().splitlines()) <= 25
    for long, short in (("steps=2_000", "steps=30"), ("every=200", "every=10"), ("warmup=100", "warmup=5")):
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})
    accuracy, count = capsys.readouterr().out.split()[-2:]
    assert 0 <= float(accuracy) <= 1 and count == "359"


SHORT = {
    "_000": "", "steps=2,": "steps=3,", "256": "32", "512": "16", "batch_size=128": "batch_size=32", "500 *": "2 *",
    "steps=100": "steps=2", "epochs=5": "epochs=1", "n0=100": "n0=10", "[:1000]": "[:8]", "steps=7": "steps=1",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Few labels", "Robustness", "Privacy", "Federated learning", "Continual learning"])
def test_blocks_of_methods_run_from_a_copy(title):
    def some(count):
        image, label = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)), np.arange(count) % 10
        arrays = {"image": image.astype(np.uint8), "label": label.astype(np.int32)}
        return jc.data.Resident(arrays, tuple("abcdefghij"))

    task, tx = jc.tasks.classification(jc.models.lenet5(num_classes=10)), jc.optim.adamw(1e-3)
    train, images = some(400), some(4).arrays["image"] / 255
    known = {"jc": jc, "task": task, "tx": tx, "train": train, "test": some(40), "labelled": some(40)}
    known |= {"variables": jc.init_state(task, tx, train.example()).variables, "labels": np.arange(4)}
    known["images"] = images if title == "Robustness" else train
    for code in python_blocks(section(LIBRARY, title)):
        for long, short in SHORT.items():
            code = code.replace(long, short)
        exec(compile(code, title, "exec"), known)


@every_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", PAGES[page]):
        if "://" in target:
            continue
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), f"{target}#{anchor}"


@every_page
def test_python_blocks_compile(page):
    for code in python_blocks(PAGES[page]):
        compile(code, page, "exec")


@every_page
def test_names_of_the_library_exist(page):
    code = "\n".join(python_blocks(PAGES[page]) + re.findall(r"`([^`\n]+)`", PAGES[page]))
    for path in set(re.findall(r"\bjc\.([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)", code)):
        if path not in NOT_NAMES:
            functools.reduce(getattr, path.split("."), jc)


@every_page
def test_commands_and_their_flags_exist(page):
    for module, rest in commands(PAGES[page]):
        assert importlib.util.find_spec(module), module
        assert not flags(rest) or flags(rest) <= flags_of(module), f"python -m {module}{rest}"


@every_page
def test_subcommands_and_their_flags_exist(page):
    for name, rest in subcommands(PAGES[page]):
        assert name in COMMANDS, name
        assert flags(rest) <= flags_of_subcommand(name), f"jaxcnn {name}{rest}"


def test_tables_of_commands_name_modules():
    found = 0
    for prefix, rows in re.findall(r"^\| `python -m ([\w.]+\.)` .*\n\|[-|]+\n((?:\|.*\n)+)", ALL, re.MULTILINE):
        for name in re.findall(r"^\| `(\w+)`", rows, re.MULTILINE):
            assert importlib.util.find_spec(prefix + name), prefix + name
            found += 1
    assert found > 20


@every_page
def test_flags_exist(page):
    shown = {module for module, _ in commands(ALL) if ".test_" not in module} | {"experiments.studies.regularisation"}
    known = set().union(*(flags_of(module) for module in shown), *map(flags_of_subcommand, COMMANDS))
    assert flags(PAGES[page]) <= known | {"check"}


def test_errands_run():
    """A model, a loss, a task, an augmentation, a number and a reader, word for word as the page has them."""
    *blocks, fault = python_blocks(section(LIBRARY, "Eight errands"))
    assert len(blocks) == 6 and "rng" in fault
    got = {}
    for code in blocks:
        exec(compile(code, "jaxcnn/README.md", "exec"), got)

    np.testing.assert_allclose(got["huber"](jnp.array([[0.5, 3.0]]), jnp.zeros((1, 2))), [(0.125 + 2.5) / 2])
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 1)).astype(np.uint8)
    data = jc.data.Resident({"image": image, "label": image.mean((1, 2)) / 255})
    task = got["regression"](got["Tiny"](num_classes=1))
    state = jc.init_state(task, jc.optim.sgd(0.1), data.example())
    ev = jc.compile_step(jc.make_eval_step(task), devices=1)
    values = got["validate_with"](ev, data)(state)
    assert values["count"] == 8 and values["loss"] >= 0 and values["mae"] >= 0
    assert values["weight_norm"] == pytest.approx(float(optax.tree.norm(state.params)))
    assert "top_3" in got["with_more"](task).metrics

    boxes = np.tile(np.array([0.0, 0.25, 0.5, 1.0], np.float32), (8, 1, 1))
    out = got["transpose"](jax.random.key(0), {"image": image, "boxes": boxes})
    swapped = np.array([not np.array_equal(a, b) for a, b in zip(out["image"], image, strict=True)])
    assert 0 < swapped.sum() < 8
    np.testing.assert_array_equal(np.asarray(out["boxes"])[swapped, 0], [[0.25, 0.0, 1.0, 0.5]] * swapped.sum())
    np.testing.assert_array_equal(np.asarray(out["boxes"])[~swapped], boxes[~swapped])


def test_a_reader_of_the_page_reads(tmp_path):
    got = {"jc": jc}
    exec(next(code for code in python_blocks(LIBRARY) if "def npy_rows" in code), got)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.full((4, 4, 1), i, np.uint8))
    rows = got["npy_rows"]([tmp_path / f"{i}.npy" for i in range(3)], np.arange(3), ("a", "b", "c"))
    batch = next(rows.once(2)).at(0)
    np.testing.assert_array_equal(np.asarray(batch["image"])[:, 0, 0, 0], batch["label"])


def test_programs_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = LIBRARY.split("## Your own model, data and task")[1].split("## What is read")[0]
    got = {}
    for code in python_blocks(section):
        exec(compile(code, "jaxcnn/README.md", "exec"), got)
    losses = [row["train/loss"] for row in got["fitted"].history]
    assert losses[-1] < losses[0] and (tmp_path / "checkpoints/both/summary.json").exists()
    shown = capsys.readouterr().out.splitlines()[-1]
    assert shown.startswith("{") and "'count': 32" in shown
    importlib.import_module("jaxcnn.report.__main__").main(["checkpoints/both"])
    assert "accuracy" in (tmp_path / "checkpoints/both/report.html").read_text()


def networks():
    """Return a dict from name to the page's figures, as `python -m jaxcnn.models --json` prints them."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| ([\w -]+) \|", ZOO, re.MULTILINE)
    return {
        name: (int(n.replace(",", "")), gflop, [w for w in weights.split() if w != "-"])
        for name, n, gflop, weights in rows
    }


def test_the_table_of_networks_names_all_of_them():
    assert list(networks()) == sorted(MODELS)
    families = re.search(r"\| family \|.*?\n\n", ZOO, re.DOTALL)[0]
    assert sorted(
        re.findall(r"\b[a-z]\w*", " ".join(re.findall(r"^\|[^|]*\| `([^`]+)`", families, re.MULTILINE)))
    ) == sorted(MODELS)
    for name, (_, _, weights) in networks().items():
        assert weights == list(TABLES.get(name, ())), name


@pytest.mark.parametrize(
    "name", ["lenet5", "squeezenet1_1", *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS))]
)
def test_the_table_of_networks_has_their_figures(name):
    found = entry(name)
    assert networks()[name] == (found["parameters"], f"{found['gflop']:.3f}", found["weights"])
