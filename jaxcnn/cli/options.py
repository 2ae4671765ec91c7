"""Parse the arguments of a command into its dataclass of flags; give short or full help, and one-line errors."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import tyro

from jaxcnn.cli.flags import check, flag_of
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError

WIDTH = 80
HELP, ALL = ("-h", "--help"), "--help-all"


def parse(kind: type, name: str, arguments: Sequence[str], default: Any = None, shown: Sequence[str] = ()) -> Any:
    """Parse and check the flags of a command.

    Args:
        kind: dataclass of the flags.
        name: name of the command.
        arguments: those after the name of the command.
        default: values of flags that are not given; None takes those of the dataclass.
        shown: fields that `--help` explains; only `--help-all` explains the others. Empty shows all.

    Returns:
        An instance of `kind`.

    Raises:
        InputError: an unknown flag, or an invalid value.
        SystemExit: with 0, after printing help.

    """
    if any(given in (*HELP, ALL) for given in arguments):
        print(_help(kind, name, shown if ALL not in arguments else ()), flush=True)
        raise SystemExit(0)
    _check_names(kind, arguments)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed), _narrow():
            config = tyro.cli(kind, prog=f"jaxcnn {name}", args=list(arguments), default=default)
    except SystemExit as error:
        raise InputError(f"{_reason(kind, printed.getvalue())}; see jaxcnn {name} --help") from error
    check(config)
    return config


def _help(kind: type, name: str, shown: Sequence[str]) -> str:
    """Return the help text of a command."""
    hidden = [f for f in dataclasses.fields(kind) if shown and f.name not in shown]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), _narrow(), contextlib.suppress(SystemExit):
        tyro.cli(_without(kind, hidden) if hidden else kind, prog=f"jaxcnn {name}", args=["--help"])
    more = f"jaxcnn {name} --help-all explains {len(hidden)} more flags." if hidden else ""
    return "\n".join(line.rstrip() for line in [*printed.getvalue().strip().splitlines(), more] if line.strip())


def _without(kind: type, hidden: Sequence[Any]) -> type:
    """Return the dataclass with some fields hidden from its help."""
    hints = get_type_hints(kind, include_extras=True)
    fields = {f.name: Annotated[hints[f.name], tyro.conf.Suppress] for f in hidden}
    values = {f.name: f.default for f in hidden}
    members = {"__annotations__": fields, "__doc__": kind.__doc__, "__module__": kind.__module__, **values}
    return dataclasses.dataclass(frozen=True)(type(kind.__name__, (kind,), members))


def _check_names(kind: type, arguments: Sequence[str]) -> None:
    """Refuse a flag that the command does not have, and name the nearest one."""
    known = [flag_of(f.name) for f in dataclasses.fields(kind)]
    known += [f"--no-{f.name.replace('_', '-')}" for f in dataclasses.fields(kind) if f.type in (bool, "bool")]
    for given in arguments:
        flag = given.split("=")[0].replace("_", "-")
        if given.startswith("--") and len(given) > 2 and flag not in known:
            near = difflib.get_close_matches(flag, known, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"{ALL} lists all flags"
            raise InputError(f"{visible(given)}: no such flag; {hint}")
    for field in dataclasses.fields(kind):  # the parser would drop the first of two lists
        flag = flag_of(field.name)
        count = sum(given.split("=")[0].replace("_", "-") == flag for given in arguments if given.startswith("--"))
        if count > 1 and "tuple" in str(field.type):
            raise InputError(f"{flag}: given {count} times; give it once, followed by all its values")


def _reason(kind: type, printed: str) -> str:
    """Reduce the framed message of tyro to one line."""
    lines = [re.sub(r"^[│|\s]+|[│|\s]+$", "", line) for line in printed.splitlines()]
    rules = [k for k, line in enumerate(lines) if re.fullmatch(r"[-─╭╮╰╯├┤]{3,}", line)]
    begin = rules[0] + 1 if rules else 0
    text = " ".join(itertools.takewhile(lambda line: line and not line.startswith(("---", "───")), lines[begin:]))
    if match := re.match(r"Error parsing (--[\w-]+): .*\[(.*)\]", text):
        hint = str(get_type_hints(kind).get(match[1][2:].replace("-", "_"), ""))
        must = "a whole number" if "int" in hint else "a number" if "float" in hint else "another value"
        return visible(f"{match[1]} {match[2]}: must be {must}")
    if match := re.match(r"Unrecognized options: (.*)", text):
        return visible(f"{match[1]}: unexpected argument; leave it out")
    return visible(text.rstrip(".")) or "the flags cannot be parsed"


@contextlib.contextmanager
def _narrow() -> Iterator[None]:
    """Make tyro format for a terminal narrow enough for everyone."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ["COLUMNS"] = str(WIDTH)
    if not sys.stdout.isatty():
        os.environ["NO_COLOR"] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors of the library name flags instead of its arguments: `rows=1000` becomes `--rows 1000`.

    Args:
        names: flags by the names of arguments.

    """
    pattern = re.compile(rf"(?<![\w\-/.])({'|'.join(map(re.escape, names))})=('[^']*'|[^\s,;:()]*)(?: \(--[\w-]+\))?")

    def flag(found: re.Match[str]) -> str:
        name, value = names[found[1]], found[2].strip("'")
        return name if value in ("", "True") else f"no {name}" if value == "None" else f"{name} {value}"

    try:
        yield
    except InputError as error:
        raise InputError(pattern.sub(flag, str(error))) from error
