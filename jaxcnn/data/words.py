"""Words and bytes of texts as numbers, for networks: 0 pads a text to the length of its row, 1 is an unknown word."""

import collections
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from jaxcnn.core.types import InputError, check_whole

PAD, UNKNOWN = 0, 1
SPACE = 33  # number of the byte of a space
FIRST = 2  # number of the most frequent word
LONGEST = 2**20  # characters of a text that are looked at
ROOM = 2**20  # most characters of a vocabulary, joined by spaces, that config.json can hold
# a word, an English ending that negates or shortens, or one mark
TOKEN = re.compile(r"n't\b|'(?:s|m|re|ve|ll|d)\b|(?:(?!n't\b)\w)+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """Divide a text into lower-case words and marks, as Kim (2014, arXiv:1408.5882) does: `isn't` is `is` and `n't`.

    Args:
        text: any text; characters are normalised (NFKC), and what follows the first million of them is left out.

    """
    return TOKEN.findall(unicodedata.normalize("NFKC", text[:LONGEST]).lower())


def vocabulary(texts: Iterable[str], *, least: int = 1, most: int | None = None) -> tuple[str, ...]:
    """Return the words of training texts, the most frequent first, equally frequent ones in alphabetical order.

    Args:
        texts: the training texts; a word that only others have must stay unknown.
        least: how often a word must occur, at least 1.
        most: number of words that are kept; None for all.

    Raises:
        InputError: a bound is below 1, or no word is left.

    """
    check_whole("least", least)
    if most is not None:
        check_whole("most", most)
    if least < 1 or most is not None and most < 1:
        raise InputError(f"least={least}, most={most}: must be at least 1")
    counts = collections.Counter(word for text in texts for word in tokens(text))
    words = sorted((word for word, n in counts.items() if n >= least), key=lambda word: (-counts[word], word))
    if not words:
        raise InputError(f"no word occurs {least} times in the training texts; give other texts, or a lower bound")
    return tuple(words[:most])


def encode(texts: Sequence[str], words: Sequence[str], length: int) -> np.ndarray:
    """Return the numbers of the words of each text.

    Args:
        texts: the texts.
        words: of `vocabulary`; word `i` has the number `i + 2`.
        length: words of a row; longer texts are cut, shorter ones padded with 0.

    Returns:
        int32 `[N, length]`. A text without a single word is one unknown word.

    Raises:
        InputError: the length is below 1.

    """
    check_whole("length", length)
    if length < 1:
        raise InputError(f"length={length}: must be at least 1")
    number = {word: i for i, word in enumerate(words, FIRST)}
    out = np.zeros((len(texts), length), np.int32)
    for row, text in zip(out, texts, strict=True):
        found = [number.get(word, UNKNOWN) for word in tokens(text)[:length]] or [UNKNOWN]
        row[: len(found)] = found
    return out


def encode_bytes(texts: Sequence[str], length: int) -> np.ndarray:
    """Return the bytes of each text in UTF-8, each plus 1, so that 0 is padding: int32 `[N, length]` in 0..256."""
    check_whole("length", length)
    if length < 1:
        raise InputError(f"length={length}: must be at least 1")
    out = np.zeros((len(texts), length), np.int32)
    for row, text in zip(out, texts, strict=True):
        found = np.frombuffer(text[:length].encode("utf-8", "replace")[:length] or b" ", np.uint8)
        row[: len(found)] = found.astype(np.int32) + 1
    return out


def encode_row(text: str, unit: str, words: Sequence[str], length: int) -> np.ndarray:
    """Return the numbers of one text, int32 `[length]`; `unit` is `"words"` or `"bytes"`."""
    return encode_bytes([text], length)[0] if unit == "bytes" else encode([text], words, length)[0]


def spans(text: str, unit: str, length: int) -> list[tuple[str, int, int]]:
    """Return the words of a text that its row holds, each with the place of its first number and of the next word's."""
    if unit == "words":
        return [(word, i, i + 1) for i, word in enumerate(tokens(text)[:length])]
    out = []
    for word in re.finditer(r"\S+", text[:length]):
        start = len(text[: word.start()].encode("utf-8", "replace"))
        stop = min(start + len(word[0].encode("utf-8", "replace")), length)
        if start < stop:
            out.append((word[0], start, stop))
    return out


def row_spans(row: np.ndarray, unit: str, words: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the words of a row of numbers, as `spans` does of a text; a word without a number of its own is `?`."""
    numbers = np.asarray(row)[: np.count_nonzero(row)]
    if unit == "bytes":
        text = (numbers - 1).astype(np.uint8).tobytes().decode("utf-8", "replace")
        return spans(text, unit, len(numbers))
    return [(str(words[n - FIRST]) if n >= FIRST else "?", i, i + 1) for i, n in enumerate(numbers.tolist())]
