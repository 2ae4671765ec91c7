"""What the README says is so: its example runs, its links lead somewhere, its flags exist."""

import dataclasses
import pathlib
import re

from experiments import binary, cifar10, explain, image_processing, mnist, transfer, transfer_curve
from experiments.benchmarks import cifar10 as cifar10_benchmark
from experiments.benchmarks import harness
from experiments.studies import attention, regularisation
from jaxcnn.report import __main__ as reporting

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.strip().splitlines()) <= 25
    for long, short in (("steps=2_000", "steps=30"), ("every=200", "every=10"), ("warmup=100", "warmup=5")):
        assert long in code
        code = code.replace(long, short)
    exec(compile(code, "README.md", "exec"), {})
    accuracy, count = capsys.readouterr().out.split()
    assert 0 <= float(accuracy) <= 1 and count == "359"


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets and all((ROOT / target).exists() for target in targets if "://" not in target)


def test_flags_exist():
    configs = (
        mnist.Config,
        binary.Config,
        cifar10.Config,
        attention.Config,
        regularisation.Config,
        transfer.Config,
        transfer_curve.Config,
        explain.Config,
        image_processing.Config,
        cifar10_benchmark.Config,
        harness.Settings,
    )
    known = {f.name for config in configs for f in dataclasses.fields(config)} | {"help", "json"}
    known |= {action.dest for action in reporting.parser()._actions}
    assert {flag.removeprefix("no-").replace("-", "_") for flag in re.findall(r"--([a-z][a-z0-9-]+)", README)} <= known
