"""A few hundred inputs of the fuzzer by default, and the ten thousand of `python -m tests.faults.fuzz` in the slow part."""

import pytest

from tests.faults import fuzz, readers

QUICK = ["finished", "folder", "folder-lenient", "groups", "idx", "image", "npz", "weights"]  # which need no TensorFlow and no checkpoint


@pytest.mark.parametrize("inputs, names, seed", [(240, QUICK, 7), pytest.param(10_000, sorted(readers.READERS), 0, marks=pytest.mark.slow)])
def test_every_reader_gives_rows_or_one_line(inputs, names, seed):
    found, faults, _, _ = fuzz.fuzz(inputs, seed, names)
    assert not faults, "\n".join(faults[:20])
    assert sum(found.values()) == inputs
    assert sum(n for (_, how, _), n in found.items() if how in ("sound", "changed")) >= inputs / 2


def test_an_input_is_a_function_of_seed_reader_and_number(tmp_path):
    reader = readers.READERS["groups"]
    reader.make(tmp_path / "groups")
    made = [fuzz.inputs_of(reader, number, 3, tmp_path) for number in (5, 6, 5)]
    contents = [(how, [p.read_bytes() if p.is_file() else None for p in sorted(target.iterdir())]) for how, target in made]
    assert contents[0] == contents[2] != contents[1]
