"""A file imports only from lower floors and never in a circle, and importing the library stays light."""

import ast
import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLOORS = {
    "core": 0, "ops": 0, "version": 0,
    "layers": 1, "losses": 1, "metrics": 1, "augment": 1, "optim": 1,
    "models": 2, "weights": 3, "tasks": 3,
    "parallel": 4, "train": 4, "data": 4,
    "methods": 5, "explain": 5, "runs": 6, "report": 7, "deploy": 7, "tune": 7, "cli": 8,
}  # fmt: skip
LAZY = {
    "tensorflow": {"data"}, "tensorflow_datasets": {"data"}, "sklearn": {"data"}, "PIL": {"data", "report"},
    "huggingface_hub": {"weights"}, "nibabel": {"data"}, "pydantic": {"core"},
    "scipy": {"metrics", "losses", "data", "methods"},
    "soundfile": {"data"}, "av": {"data"}, "onnx": {"deploy"}, "onnxruntime": {"deploy"}, "openvino": {"deploy"},
    "uvicorn": {"deploy"}, "starlette": {"deploy"},
    "python_multipart": {"deploy"}, "prometheus_client": {"deploy"},
}  # fmt: skip


def files():
    return [p for p in (ROOT / "jaxcnn").rglob("*.py") if p != ROOT / "jaxcnn" / "__init__.py"]


def unit(path):
    """Return the room of a file; the `__main__` of any package is a command."""
    part = path.relative_to(ROOT / "jaxcnn").parts[0]
    return "cli" if path.name == "__main__.py" else part.removesuffix(".py")


@functools.cache
def imports(path):
    """(module, whether at the top of the file) for every import."""
    return list(_imports(ast.parse(path.read_text())))


def _imports(tree):
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module] + [f"{node.module}.{a.name}" for a in node.names]
        for name in names:
            yield name, node in tree.body


def own(name):
    parts = name.split(".")
    return parts[1] if parts[0] == "jaxcnn" and len(parts) > 1 else None


def test_every_unit_has_a_floor():
    assert {unit(p) for p in files()} == set(FLOORS)


def test_imports_go_down():
    for path in files():
        for name, _ in imports(path):
            target = own(name)
            if target in FLOORS and target != unit(path):
                assert FLOORS[target] <= FLOORS[unit(path)], f"{path}: floor {FLOORS[unit(path)]} imports {name}"


def test_reports_receive_what_others_made():
    for path in files():
        if unit(path) == "report":  # its command hands pictures in
            names = {name for name, _ in imports(path)}
            assert not {own(name) for name in names} & {"methods", "explain"} and "jaxcnn.train.loop" not in names, path


def test_the_library_knows_no_experiment():
    for path in files():
        if unit(path) in ("core", "tasks", "train", "runs", "report"):
            assert not re.search(r"\bexperiments\.", path.read_text()), path


def test_no_circles():
    graph = {}
    for path in files():
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = {n for n, top in imports(path) if top and n.startswith("jaxcnn.")}

    done = set()

    def visit(module, above):
        assert module not in above, f"circle: {' -> '.join([*above, module])}"
        for target in graph.get(module, set()) - done:
            if target != module and not module.startswith(target + "."):
                visit(target, [*above, module])
        done.add(module)

    for module in graph:
        visit(module, [])


def test_linen_stays_in_layers_and_models():
    for path in files():
        if any(name.startswith("flax") for name, _ in imports(path)):
            counts_calls = path.name == "summary.py"
            assert unit(path) in ("layers", "models") or counts_calls, path


def test_heavy_imports_are_lazy():
    for path in files():
        for name, top in imports(path):
            root = name.split(".")[0]
            if root in LAZY:
                assert not top and unit(path) in LAZY[root], f"{path} imports {name}"


def test_import_leaves_heavy_packages_alone():
    heavy = (
        "tensorflow",
        "matplotlib",
        "nibabel",
        "sklearn",
        "PIL",
        "tensorflow_datasets",
        "soundfile",
        "onnx",
        "onnxruntime",
    )
    code = f"import sys, jaxcnn; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert out.stdout.strip() == "[]"
