"""How a table of names is written, and how it is read: our path of a module to the name that a library gives it."""

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxcnn.weights.preprocessing import Preprocessing

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
AUXILIARY = "extra_"  # how our paths of auxiliary heads begin
PLACEHOLDER = re.compile(r"\{(\d*)([a-z]+)([+-]\d+)?\}")


class Block(NamedTuple):
    """The names of one kind of block.

    A block is read by the first entry of its table that fits its path and names all its parts, so that two kinds of
    block in one stage, or blocks with and without a part, are entries one after the other.

    Attributes:
        here: our path of the block, such as `"stages_{i}_{j}"`.
        there: the library's, such as `"layer{i+1}.{j}"`.
        parts: our path within the block to the library's.

    """

    here: str
    there: str
    parts: Mapping[str, str]


class Source(NamedTuple):
    """What a library calls the parts of a network, and what the network's images go through there.

    In all paths `{i}` stands for a number, and `{name}`, of more than one letter, for a word; the library's path may
    also have `{i+1}`, `{2i}` or `{2i+1}`.

    Attributes:
        modules: our path of a module or a lone parameter to the library's. A network that lacks one of those without a
            placeholder, other than an auxiliary head, is not the library's.
        blocks: the names of the blocks; of several that fit, the first.
        auxiliary: the library's names of auxiliary heads, which a file may have although the network lacks them.
        needs: options of the network, and the values at which it is the library's.
        spatial: lone parameters, by the end of the library's name, that have one axis here and two empty ones more
            there.
        orders: for modules whose output channels come in groups, such as the four numbers of a box, the places in a
            group there, in the order here, by the library's name.
        former: pattern and replacement, for names in published files that the library has changed since.
        preprocessing: what the images go through before the published weights.

    """

    modules: Mapping[str, str]
    blocks: Sequence[Block] = ()
    auxiliary: Sequence[str] = ()
    needs: Mapping[str, Any] = {}
    spatial: Sequence[str] = ()
    orders: Mapping[str, Sequence[int]] = {}
    former: Sequence[tuple[str, str]] = ()
    preprocessing: Preprocessing = Preprocessing()


def under(here: str, there: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Put a path in front of all paths of a table, ours and the library's, which may be empty."""
    return {f"{here}.{part}": f"{there}.{name}".removeprefix(".") for part, name in parts.items()}


def conv_norm(conv: str, norm: str) -> dict[str, str]:
    """Name a convolution and the norm behind it."""
    return {"conv": conv, "norm": norm}


def names(source: Source, model: Any, paths: Iterable[str]) -> dict[str, str] | None:
    """Return the library's name of each variable of a network.

    Args:
        source: the library's table.
        model: the network.
        paths: of its variables, such as `params.stem.conv.kernel`.

    Returns:
        Our path to the library's name; None for a network that the table does not describe.

    """
    if any(getattr(model, option) != value for option, value in source.needs.items()):
        return None
    inside = {path: _split(path.partition(".")[2]) for path in paths}
    known = _modules(source, {module for module, _ in inside.values()})
    needed = {here for here in source.modules if not PLACEHOLDER.search(here) and not here.startswith(AUXILIARY)}
    if not all(module in known for module, _ in inside.values()) or not needed <= known.keys():
        return None
    return {path: known[module] + suffix for path, (module, suffix) in inside.items()}


def current(source: Source, name: str) -> str:
    """Return today's name of a tensor that the library's published files call otherwise."""
    for old, new in source.former:
        name = re.sub(old, new, name)
    return name


def _split(path: str) -> tuple[str, str]:
    """Split our path into that of the module and the library's name of its parameter; a lone parameter stays whole."""
    module, _, leaf = path.rpartition(".")
    return (module, f".{LEAVES[leaf]}") if leaf in LEAVES else (path, "")


def _modules(source: Source, modules: set[str]) -> dict[str, str]:
    """Return the library's names of the modules that the table knows."""
    known = {module: name for module in modules if (name := _first(source.modules, module)) is not None}
    parts: dict[str, list[str]] = {}
    for module in modules - known.keys():
        block, _, part = module.partition(".")
        parts.setdefault(block, []).append(part)
    for block, found in parts.items():
        known |= next(_blocks(source, block, found), {})
    return known


def _blocks(source: Source, path: str, parts: Sequence[str]) -> Iterator[dict[str, str]]:
    """Give the names of a block by each of the entries that fit it."""
    for block in source.blocks:
        there = _translated(block.here, block.there, path)
        named = {part: _first(block.parts, part) for part in parts} if there is not None else {"": None}
        if None not in named.values():
            yield {f"{path}.{part}": f"{there}.{name}" for part, name in named.items()}


def _first(table: Mapping[str, str], path: str) -> str | None:
    if path in table and not PLACEHOLDER.search(path):
        return table[path]
    translated = (_translated(here, there, path) for here, there in table.items() if "{" in here)
    return next((name for name in translated if name is not None), None)


def _translated(here: str, there: str, path: str) -> str | None:
    """Fill a path's numbers and words into the library's name; None where the path is another one."""
    if not (match := _pattern(here).fullmatch(path)):
        return None
    found = match.groupdict()

    def filled(placeholder: re.Match[str]) -> str:
        times, name, more = placeholder.groups()
        return str(int(times or 1) * int(found[name]) + int(more or 0)) if times or more else found[name]

    return PLACEHOLDER.sub(filled, there)


@functools.cache
def _pattern(here: str) -> re.Pattern[str]:
    """Make a regular expression of a path with placeholders."""
    literal = PLACEHOLDER.split(here)[::4]
    kinds = [rf"(?P<{name}>\d+)" if len(name) == 1 else rf"(?P<{name}>\w+)" for _, name, _ in PLACEHOLDER.findall(here)]
    return re.compile("".join(a + b for a, b in zip(map(re.escape, literal), [*kinds, ""], strict=True)))
