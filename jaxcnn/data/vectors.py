"""Vectors of words that others have trained, from the files of word2vec, GloVe and fastText."""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from jaxcnn.core.files import opened
from jaxcnn.core.text import visible
from jaxcnn.core.types import InputError
from jaxcnn.data.arrays import open_npz

LINE = 2**16  # most bytes of a line
WIDEST = 4096  # most numbers of a vector


def read_vectors(path: str | pathlib.Path, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read the vectors of some words.

    A text file (`.txt` or `.vec`) has a line for each word, with its numbers after it, and possibly a first line with
    the number of words and of numbers. An `.npz` file has arrays `words` `[N]` and `vectors` `[N, D]`. Words are
    compared in lower case; of several spellings, the first counts.

    Args:
        path: the file, UTF-8.
        words: the words to look for, such as those of `data.words.vocabulary`.

    Returns:
        `(vectors, found)`: float32 `[len(words), D]`, zero where the file has no vector, and bool `[len(words)]`.

    Raises:
        InputError: The file cannot be read, has vectors of different lengths or with NaN, or has none of the words.

    """
    path = pathlib.Path(path)
    place = {word: i for i, word in enumerate(words)}
    found, out = np.zeros(len(words), bool), np.zeros((len(words), 0), np.float32)
    for word, vector in _npz(path) if path.suffix == ".npz" else _lines(path):
        if not out.shape[1]:
            out = np.zeros((len(words), len(vector)), np.float32)
        if len(vector) != out.shape[1]:
            line = f"{visible(word)[:40]!r} has {len(vector)} numbers, and others {out.shape[1]}"
            raise InputError(f"{visible(path)}: {line}; give a complete file")
        at = place.get(word.lower())
        if at is None or found[at]:
            continue
        if not np.isfinite(vector).all():
            raise InputError(f"{visible(path)}: the vector of {visible(word)[:40]!r} is not finite; give another file")
        out[at], found[at] = vector, True
    if not found.any():
        raise InputError(f"{visible(path)}: has a vector of none of the {len(words):,} words; give another file")
    return out, found


def _lines(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield words and vectors of a text file; lines are read one by one, because such files are large."""
    try:
        with opened(path) as file:
            number = 0
            while line := file.readline(LINE + 1):
                number += 1
                word, *values = line.decode("utf-8", "replace").rstrip().split(" ")
                if number == 1 and len(values) == 1:
                    continue  # number of words, and of numbers
                if len(line) > LINE or not 1 <= len(values) <= WIDEST:
                    raise InputError(f"{visible(path)}: line {number:,}: must be a word and 1 to {WIDEST:,} numbers")
                try:
                    yield word, np.array(values, np.float32)
                except ValueError as error:
                    raise InputError(
                        f"{visible(path)}: line {number:,}: {visible(str(error))[:60]}; must be a word and numbers"
                    ) from error
    except OSError as error:
        raise InputError(f"{visible(path)}: cannot be read ({error.strerror}); give another file") from error


def _npz(path: pathlib.Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield words and vectors of an archive."""
    try:
        with open_npz(path) as archive:
            words, vectors = archive["words"], archive["vectors"]
    except InputError:
        raise
    except Exception as error:  # errors of many types come from a damaged archive
        line = "needs arrays 'words' [N] and 'vectors' [N, D]"
        raise InputError(f"{visible(path)}: cannot be read ({type(error).__name__}); {line}") from error
    if words.ndim != 1 or words.dtype.kind != "U" or vectors.ndim != 2 or len(words) != len(vectors):
        raise InputError(
            f"{visible(path)}: 'words' {words.shape} {words.dtype} and 'vectors' {vectors.shape}: "
            "must be texts [N] and numbers [N, D]"
        )
    yield from zip(words.tolist(), vectors.astype(np.float32), strict=True)
