"""Runs: a run is a folder of results, which a model can be rebuilt from, evaluated and compared."""

from jaxcnn.runs.data import Rows, limited, read_data, rows_to_measure
from jaxcnn.runs.load import TrainedRun, build, evaluate, example, load_run, predict, read_config
from jaxcnn.runs.options import check_options
from jaxcnn.runs.plan import Plan, settled
from jaxcnn.runs.ready import Ready, prepare
from jaxcnn.runs.results import Skipped
from jaxcnn.runs.save import save_run
from jaxcnn.runs.schema import check_build, check_config, check_lines, check_summary
from jaxcnn.runs.signals import Signals
from jaxcnn.runs.source import find, source
from jaxcnn.runs.train import train_prepared, train_run

__all__ = [
    "TrainedRun", "Plan", "Ready", "Rows", "Signals", "Skipped", "build", "check_build", "check_config", "check_lines",
    "check_options", "check_summary", "evaluate", "example", "find", "limited", "load_run", "predict", "prepare",
    "read_config", "read_data", "rows_to_measure", "save_run", "settled", "source", "train_prepared", "train_run",
]  # fmt: skip
