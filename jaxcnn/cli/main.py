"""The `jaxcnn` command: one subcommand per file, which is imported only when it is called."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from jaxcnn.core.text import visible
from jaxcnn.version import __version__

COMMANDS = {
    "train": "train a network on photos, sounds, a table, arrays or a TFDS set",
    "tune": "search for the settings of a training, and train with the best",
    "evaluate": "measure a run on its test rows, or on other data",
    "predict": "predict the class and its probability for files",
    "report": "write a page and a model card per run; compare several runs",
    "search": "find similar images or duplicates with a run, in an index of vectors",
    "export": "write a run for another runtime: ONNX, StableHLO, LiteRT and others",
    "explain": "draw what supports the predicted class of each image",
    "serve": "answer over HTTP, with a page for people",
    "label": "label images at a local page, the most useful ones first",
    "data": "describe a data set and draw examples",
    "models": "list the networks",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: arguments of the command line; by default those of the process.

    Returns:
        The exit code: 0 for success, 1 for a run that stopped, 2 for bad input, 130 and 143 after a signal.

    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--version"]:
        return _print(__version__)
    if not given or given[0] in ("-h", "--help", "help"):
        _print(usage())
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(COMMANDS)}"
        print(f"jaxcnn: {visible(name)!r}: no such command; {hint}", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(f"jaxcnn.cli.{name}").main(rest)
    except SystemExit as end:  # after help
        return int(end.code or 0)


def _print(text: str) -> int:
    """Print a text; a reader such as `head` may close the pipe early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it exits
    return 0


def usage() -> str:
    """Return the list of subcommands."""
    lines = [f"  jaxcnn {name:<10}{about}" for name, about in COMMANDS.items()]
    return "\n".join(["usage: jaxcnn COMMAND ...", "", *lines, "", "jaxcnn COMMAND --help explains a command."])
