"""A run's folder: what it must hold so that its model can be built again, what reads it, and on which rows it is measured."""

from jaxcnn.runs.data import Rows, limited, read_data, rows_to_measure
from jaxcnn.runs.load import LoadedRun, build, evaluate, example, load_run, read_config
from jaxcnn.runs.schema import check_build, check_config, check_lines, check_options, check_summary
from jaxcnn.runs.source import find, source

__all__ = [
    "LoadedRun", "Rows", "build", "check_build", "check_config", "check_lines", "check_options", "check_summary", "evaluate", "example",
    "find", "limited", "load_run", "read_config", "read_data", "rows_to_measure", "source",
]  # fmt: skip
