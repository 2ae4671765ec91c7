"""Texts with labels: a CSV file with a column of texts, or a folder of `.txt` files per class."""

import collections
import logging
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxcnn.core import files
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data import listing, words
from jaxcnn.data.core import OnBad, Resident, Splits
from jaxcnn.data.splitting import cut
from jaxcnn.data.table import FILE, LABEL, SPLIT, TARGET, Kind, Table, answers, assigned, kind_of, strata
from jaxcnn.data.table import read as read_table

Unit = Literal["words", "bytes"]
TEXT = "text"
KIND = listing.Kind((".txt",), "text")
LONGEST = {"words": 400, "bytes": 1600}  # of a row, where the user gives no length
MOST = 50_000  # words of a vocabulary
MOST_UNKNOWN = 0.5  # warn if a larger share of the words is unknown
BYTES = 2**24  # of one file
LOOKED_AT = 64  # values of a column that may be names of files
log = logging.getLogger("jaxcnn")


class _Rows(NamedTuple):
    """Texts as they were read: their names, values, classes, and the part that each belongs to, empty for none."""

    texts: list[str]
    names: list[str]
    values: np.ndarray
    classes: tuple[str, ...]
    parts: dict[str, np.ndarray]


def texts(
    path: str | pathlib.Path,
    *,
    task: Kind | None = None,
    column: str | None = None,
    label: str | None = None,
    unit: Unit = "words",
    length: int | None = None,
    vocabulary: Sequence[str] | None = None,
    least: int = 1,
    most: int = MOST,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    on_bad: OnBad | None = None,
) -> Splits:
    """Load texts.

    A CSV file has a header row, a column of texts, and a column `label` of classes, a column `target` of numbers, or
    several columns of 0 and 1, as for `table`; a column `split` (train, valid or test) assigns rows to parts. A folder
    has one folder per class with a `.txt` file per text, or `train/` and `test/` with these, as for `folder`. Texts
    are UTF-8.

    Args:
        path: path of the CSV file or of the folder.
        task: the task to read, if the file has columns for several.
        column: name of the column of texts; by default see `columns`.
        label: name of the column of labels; by default see `columns`.
        unit: what a number stands for: a word, or a byte of UTF-8.
        length: words or bytes of a row; by default those of the longest training text, at most 400 words or 1,600
            bytes. Longer texts are cut, which the log counts.
        vocabulary: the words that have numbers; by default those of the training texts.
        least: how often a word of the vocabulary occurs in the training texts.
        most: most words of the vocabulary, the most frequent ones.
        classes: use only these classes of a folder, in this order.
        seed: seed of the splits.
        validation_fraction: share of the training rows to validate on, if nothing assigns them.
        test_fraction: share of all rows to test on, if nothing assigns them.
        on_bad: called with a message and a count for a text that is empty or not UTF-8, which is then left out; None
            to raise.

    Returns:
        The parts, with `"text"` int32 `[N, length]` and `"label"` `[N]` or `[N, K]`, or `"target"` `[N]`. `names` has
        the texts, or the files, and `words` of the training part the vocabulary.

    Raises:
        InputError: The data cannot be read, have fewer than two classes, or an option is out of range.

    """
    path = pathlib.Path(path)
    if unit not in LONGEST:
        raise InputError(f"unit={unit!r}: must be 'words' or 'bytes'")
    rows = _folder(path, classes, on_bad) if path.is_dir() else _table(path, task, column, label, on_bad)
    key = "label" if rows.classes else "target"
    index = {part: at for part, at in rows.parts.items() if len(at)}
    held = {part: Resident({"row": at, key: rows.values[at]}, rows.classes) for part, at in index.items()}
    train, alike = (
        held["train"],
        strata("classification" if rows.classes else "regression", held["train"].arrays[key]),
    )
    if "test" not in held:
        train, held["test"], alike = cut(train, alike, test_fraction, seed, "test_fraction")
    if "valid" not in held:
        train, held["valid"], _ = cut(train, alike, validation_fraction, seed)
    chosen = Splits(*(part.arrays["row"] for part in (train, held["valid"], held["test"])))
    known = [rows.texts[i] for i in chosen.train]
    if unit == "words" and vocabulary is None:
        vocabulary = words.vocabulary(known, least=least, most=most)
        if (size := sum(map(len, vocabulary)) + len(vocabulary)) > words.ROOM:
            raise InputError(
                f"{visible(path)}: a vocabulary of {size:,} characters; at most {words.ROOM:,} are kept: unit='bytes' "
                "(--unit bytes) needs none, and a higher least= or a lower most= gives a smaller one"
            )
    vocabulary = tuple(vocabulary or ())
    length = length or _length(known, unit)

    def part(at: np.ndarray) -> Resident:
        some = [rows.texts[i] for i in at]
        numbers = words.encode_bytes(some, length) if unit == "bytes" else words.encode(some, vocabulary, length)
        arrays: dict[str, Any] = {TEXT: numbers, key: rows.values[at]}
        return Resident(arrays, rows.classes, names=tuple(rows.names[i] for i in at), words=vocabulary)

    splits = Splits(*map(part, chosen))
    _tell(splits, rows.texts, unit, length, visible(path))
    if unit == "words":
        _tell_unknown(splits, visible(path))
    return splits


def columns(found: Table, path: pathlib.Path, column: str | None = None, label: str | None = None) -> tuple[str, str]:
    """Return the names of the columns of texts and of labels.

    Args:
        found: the rows of a CSV file.
        path: path of the file, for messages.
        column: name that the user gave for the texts; by default `text`, or in a file of two columns the one with more
            different values.
        label: name that the user gave for the labels; by default `label` or `target`, or the other column; an empty
            text if several columns of 0 and 1 are the labels.

    Raises:
        InputError: A column does not exist, or it is not clear which one it is.

    """
    for name in (column, label):
        if name and name not in found.header:
            raise InputError(
                f"{visible(path)}: no column {visible(name)!r}; it has {', '.join(map(visible, found.header))}"
            )
    others = [name for name in found.header if name != SPLIT]
    counts = {name: len(set(found.column(name))) for name in others}
    pair = sorted(others, key=lambda name: -counts[name])
    clear = len(pair) == 2 and counts[pair[0]] > counts[pair[1]]
    text = column or (TEXT if TEXT in others else pair[0] if clear and label in (None, pair[1]) else "")
    named = [name for name in others if _names_files(found.column(name))]
    if named and not column and TEXT not in others:
        line = f"no column 'file' in its header, and {visible(named[0])!r} has names of files; name that column 'file'"
        raise InputError(f"{visible(path)}: {line}, or the column of texts 'text'")
    if not text:
        line = f"which of {', '.join(map(visible, others))} is the text"
        raise InputError(
            f"{visible(path)}: it is not clear {line}; name that column 'text', and that of classes 'label'"
        )
    rest = [name for name in others if name != text]
    named = [name for name in (LABEL, TARGET) if name in rest]
    return text, label or (named[0] if named else rest[0] if len(rest) == 1 else "")


def _names_files(values: Sequence[str]) -> bool:
    """Whether the first values look like names of files rather than like texts."""
    some = values[:LOOKED_AT]
    named = [value for value in some if " " not in value and pathlib.PurePath(value).suffix[1:].isalpha()]
    return 2 * len(named) > len(some)


def _table(path: pathlib.Path, task: Kind | None, column: str | None, label: str | None, on_bad: OnBad | None) -> _Rows:
    """Read the texts of a CSV file."""
    found = read_table(path, None)
    text, answer = columns(found, path, column, label)
    found = _renamed(found, text, answer, path)
    good = []
    for i, one in enumerate(found.column(FILE)):
        if one:
            good.append(i)
        elif on_bad is None:
            raise InputError(f"{visible(path)}: line {found.lines[i]}: no text; add it, or remove the line")
    if on_bad and len(good) < len(found.rows):
        on_bad(f"{visible(path)}: {len(found.rows) - len(good):,} rows without a text", len(found.rows) - len(good))
    if not good:
        raise InputError(f"{visible(path)}: no row has a text in its column {visible(text)!r}; name another column")
    found = found._replace(rows=[found.rows[i] for i in good], lines=[found.lines[i] for i in good])
    values, names = answers(found, task or kind_of(found, path, text), path)
    parts = assigned(found, path) if SPLIT in found.header else {"train": np.arange(len(good))}
    strings = found.column(FILE)
    return _Rows(strings, [one[:80] for one in strings], values, names, parts)


def _renamed(found: Table, text: str, answer: str, path: pathlib.Path) -> Table:
    """Return the columns of texts, answers and parts, with the names that tables of files have."""
    names = {text: FILE, SPLIT: SPLIT}
    if answer:
        names[answer] = answer if answer in (LABEL, TARGET) else LABEL
    else:  # several columns are the answer
        names |= {name: name for name in found.header if name not in names}
        if FILE in found.header and text != FILE:
            raise InputError(f"{visible(path)}: a label named {FILE!r}; rename its column")
    kept = [i for i, name in enumerate(found.header) if name in names]
    return Table([names[found.header[i]] for i in kept], [[row[i] for i in kept] for row in found.rows], found.lines)


def _folder(path: pathlib.Path, classes: Sequence[str] | None, on_bad: OnBad | None) -> _Rows:
    """Read the texts of a folder."""
    left: collections.Counter[str] = collections.Counter()
    roots = listing.parts(path, left)
    names = listing.classes(roots["train"], classes)
    listing.check_counterparts(roots)
    strings, places, labels, parts = [], [], [], {}
    for part, root in roots.items():
        begin = len(strings)
        for file, label in listing.images(root, names, (path, *roots.values()), left, KIND).items():
            try:
                strings.append(read_text(file))
            except InputError as error:
                if on_bad is None:
                    raise
                on_bad(str(error), 1)
                continue
            places.append(file.relative_to(path).as_posix())
            labels.append(label)
        parts[part] = np.arange(begin, len(strings))
    listing.tell_left_out(path, left)
    have = set(np.asarray(labels)[parts["train"]].tolist())
    if lost := [name for k, name in enumerate(names) if k not in have]:
        raise InputError(
            f"{visible(roots['train'] / lost[0])}: no text is readable; replace them, or leave the class out"
        )
    return _Rows(strings, places, np.array(labels, np.int32), names, parts)


def read_text(path: str | pathlib.Path) -> str:
    """Read a text file.

    Raises:
        InputError: The file cannot be read, is larger than 16 MB, is not UTF-8, or is empty.

    """
    try:
        text = files.read_bytes(path, BYTES).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{visible(path)}: is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except OSError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{visible(path)}: cannot be read ({error.strerror}); give another file") from error
    if not text:
        raise InputError(f"{visible(path)}: is empty; give a file with a text")
    return text


def _length(known: Sequence[str], unit: Unit) -> int:
    """Return the length of the longest text, at most `LONGEST`."""
    most = LONGEST[unit]
    sizes = (len(words.tokens(one)) if unit == "words" else len(one[:most].encode()) for one in known)
    return min(max(sizes, default=1), most) or 1


def _tell(splits: Splits, strings: Sequence[str], unit: Unit, length: int, name: str) -> None:
    """Log how many texts are cut, and whether test texts are training texts."""
    count = sum((len(words.tokens(x)) if unit == "words" else len(x.encode())) > length for x in strings)
    if count:
        log.warning("%s: %s of %s texts are cut after %d %s", name, f"{count:,}", f"{len(strings):,}", length, unit)
    seen = {row.tobytes() for row in splits.train.arrays[TEXT]}
    for part, data in (("test", splits.test), ("validation", splits.valid)):
        copies = sum(row.tobytes() in seen for row in data.arrays[TEXT])
        if copies:
            log.warning("%s: %d of %d %s texts are among the training texts too", name, copies, data.size, part)


def _tell_unknown(splits: Splits, name: str) -> None:
    """Log that most words of a part are unknown: those of languages without spaces are whole clauses."""
    for part, data in (("test", splits.test), ("validation", splits.valid)):
        numbers = data.arrays[TEXT]
        share = (numbers == words.UNKNOWN).sum() / max((numbers != words.PAD).sum(), 1)
        if share > MOST_UNKNOWN:
            log.warning(
                "%s: %d %% of the %s words are unknown; try unit='bytes' (--unit bytes)", name, 100 * share, part
            )
