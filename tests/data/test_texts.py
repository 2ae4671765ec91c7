"""Texts from CSV files and folders, their words and bytes as numbers, and vectors of words from files."""

import csv
import logging

import numpy as np
import pytest

import jaxcnn as jc
from jaxcnn.data import cells, words
from jaxcnn.data.formats import classes_format, table_format
from jaxcnn.data.texts import texts
from jaxcnn.data.vectors import read_vectors

GOOD, BAD = (
    ("a great film", "great, moving and great", "simply great"),
    ("a tedious mess", "tedious", "so tedious it is n't funny"),
)


def table(path, rows, head="text,label"):
    path.write_text("\n".join([head, *rows]) + "\n", "utf-8")
    return path


def reviews(path, times=4, head="text,label"):
    rows = [f'"{x} {i}",{k}' for i in range(times) for k, some in (("good", GOOD), ("bad", BAD)) for x in some]
    return table(path, rows, head)


def refused(match, call, *arguments, **options):
    with pytest.raises(jc.InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_words_of_a_text():
    assert words.tokens("It isn't GREAT, is it?") == ["it", "is", "n't", "great", ",", "is", "it", "?"]
    assert words.tokens("The film's ﬁne") == ["the", "film", "'s", "fine"]  # a ligature
    assert len(words.tokens("a " * 10**6)) == words.LONGEST // 2
    assert words.vocabulary(["b a", "b c"]) == ("b", "a", "c") and words.vocabulary(["b a", "b"], least=2) == ("b",)
    refused("no word occurs 3 times", words.vocabulary, ["a"], least=3)
    rows = words.encode(["b nosuch a b", "", "a"], ("b", "a"), 3)
    assert rows.tolist() == [[2, 1, 3], [1, 0, 0], [3, 0, 0]] and rows.dtype == np.int32
    assert words.encode_bytes(["ab", "é", ""], 3).tolist() == [[98, 99, 0], [196, 170, 0], [33, 0, 0]]


def test_words_and_their_places_come_back_from_the_numbers():
    text, known = "so é good", ("so", "good")
    for unit, spans in (
        ("words", [("so", 0, 1), ("é", 1, 2), ("good", 2, 3)]),
        ("bytes", [("so", 0, 2), ("é", 3, 5), ("good", 6, 10)]),
    ):
        assert words.spans(text, unit, 20) == spans
        row = words.encode_row(text, unit, known, 20)
        back = words.row_spans(row, unit, known)
        assert [place for _, *place in back] == [list(x[1:]) for x in spans]
        assert [word for word, *_ in back] == (["so", "?", "good"] if unit == "words" else ["so", "é", "good"])


def test_a_table_of_texts_is_cut_into_parts_and_keeps_its_words(tmp_path):
    splits = texts(reviews(tmp_path / "a.csv"), seed=1)
    assert [part.size for part in splits] == [17, 2, 5] and splits.train.classes == ("bad", "good")
    train = splits.train.arrays
    assert train["text"].shape[1] == 7 and train["text"].max() == len(splits.train.words) + 1
    known = {word for name in splits.train.names for word in words.tokens(name)}
    assert known == set(splits.train.words) and splits.test.words == splits.train.words
    for name, row, label in zip(
        splits.test.names, splits.test.arrays["text"], splits.test.arrays["label"], strict=True
    ):
        assert ("great" in name) == bool(label)
        assert row.tolist() == words.encode([name], splits.train.words, 7)[0].tolist()


def test_a_column_of_parts_and_other_names_of_columns(tmp_path):
    rows = ['"so, so",1,train', "bad one,0,train", "good one,1,valid", "bad,0,test"]
    splits = texts(table(tmp_path / "a.csv", rows, "review,sentiment,split"), length=2)
    assert [part.size for part in splits] == [2, 1, 1] and splits.train.classes == ("0", "1")
    assert splits.train.words == ("so", ",", "bad", "one") and splits.train.arrays["text"].shape == (2, 2)
    numbers = texts(table(tmp_path / "b.csv", [f"text {i},{i / 2}" for i in range(20)], "text,target"), unit="bytes")
    assert numbers.train.arrays["target"].dtype == np.float32 and not numbers.train.words
    several = texts(table(tmp_path / "c.csv", [f"text {i},{i % 2},{i % 3 % 2}" for i in range(20)], "text,rude,long"))
    assert several.train.classes == ("rude", "long") and several.train.arrays["label"].shape[1] == 2


def test_columns_that_are_chosen_are_not_those_of_the_same_name(tmp_path):
    rows = [f"text {i},{'ham' if i % 2 else 'spam'},{'good' if i % 3 else 'bad'}" for i in range(20)]
    path = table(tmp_path / "a.csv", rows, "text,label,sentiment")
    assert texts(path, label="sentiment").train.classes == ("bad", "good")
    assert texts(path).train.classes == ("ham", "spam")
    rows = [f"doc{i}.txt,some words {i},{i % 2}" for i in range(20)]
    found = texts(table(tmp_path / "b.csv", rows, "file,review,label"), column="review").train
    assert set(found.words) >= {"some", "words"} and found.names[0].startswith("some words")
    rows = [f"doc,words {i},{i % 2}" for i in range(20)]
    both = table(tmp_path / "c.csv", rows, "file,text,rude")
    refused("a label named 'file'; rename", texts, both, label="", task="multilabel")


def test_languages_without_spaces_are_told(tmp_path, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        texts(table(tmp_path / "a.csv", [f"{chr(0x4E00 + i) * 9},{i % 2}" for i in range(40)]))
        texts(reviews(tmp_path / "b.csv"))
    assert "100 % of the test words are unknown; try unit='bytes'" in caplog.text
    assert not [line for line in caplog.messages if "b.csv" in line and "unknown" in line]
    monkeypatch.setattr(words, "ROOM", 20)
    refused("a vocabulary of [0-9]+ characters; at most 20 are kept: unit='bytes'", texts, tmp_path / "b.csv")


def test_a_folder_of_texts(tmp_path):
    for part in ("train", "test"):
        for name, some in (("neg", BAD), ("pos", GOOD)):
            (tmp_path / part / name).mkdir(parents=True)
            for i, text in enumerate(some):
                (tmp_path / part / name / f"{i}.txt").write_text(f"{text} {part}", "utf-8-sig")
    splits = texts(tmp_path, validation_fraction=0.34)
    assert [part.size for part in splits] == [4, 2, 6] and splits.train.classes == ("neg", "pos")
    assert splits.test.names[0] == "test/neg/0.txt" and classes_format(tmp_path) == "texts"
    (tmp_path / "test" / "pos" / "0.txt").write_bytes("schön".encode("latin-1"))
    (tmp_path / "test" / "pos" / "1.txt").write_bytes(b" \n")
    refused("0.txt: is not UTF-8 .byte 3.; save it as UTF-8", texts, tmp_path)
    lines = []
    assert texts(tmp_path, on_bad=lambda line, n: lines.append(line), validation_fraction=0.34).test.size == 4
    assert "is not UTF-8" in lines[0] and "is empty" in lines[1]


def test_long_texts_and_copies_are_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "jaxcnn"):
        rows = ["one two three four,a,train", "x,b,train", "one two,a,valid", "one two three five,b,test"]
        texts(table(tmp_path / "a.csv", rows, "text,label,split"), length=3)
    assert "2 of 4 texts are cut after 3 words" in caplog.text
    assert "1 of 1 test texts are among the training texts too" in caplog.text


def test_a_text_of_a_million_characters(tmp_path, monkeypatch):
    before = csv.field_size_limit()
    splits = texts(table(tmp_path / "a.csv", [f"{'word ' * 200_000}{i},{i % 2}" for i in range(10)]), length=3)
    assert splits.train.arrays["text"].shape[1] == 3
    monkeypatch.setattr(cells, "CELL", 100_000)
    refused("line 2: a cell of more than 100,000 characters", texts, tmp_path / "a.csv")
    assert csv.field_size_limit() == before


def test_what_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    refused("line 3: no text; add it", texts, table(path, ["x,a", ",b", "y,a"]))
    kept = texts(table(path, ["x,a", ",b", "y,b", *["z,a"] * 9]), on_bad=lambda line, n: None, validation_fraction=0.2)
    assert sum(part.size for part in kept) == 11
    refused("line 2: no label", texts, table(path, ["x,", "y,b"]))
    refused("only the label 'a'; needs at least two classes", texts, table(path, ["x,a", "y,a"]))
    refused("it is not clear which of one, two, three is the text", texts, table(path, ["a,b,c"], "one,two,three"))
    refused("no column 'nosuch'; it has text, label", texts, reviews(path), column="nosuch")
    refused("2 values for 3 columns", texts, table(path, ["a,b"], "text,label,split"))
    refused("unit='letters': must be 'words' or 'bytes'", texts, path, unit="letters")
    path.write_bytes("text,label\nschön,a\n".encode("latin-1"))
    refused(r"is not UTF-8 .line \d+.; save it as CSV, UTF-8", texts, path)
    names = [f"{i}.png,{k}" for i in range(9) for k in "ab"]
    refused("no column 'file' in its header, and 'name' has names of files", texts, table(path, names, "name,label"))
    scores = [f"text {i},0.{i % 2}" for i in range(30)]
    assert texts(table(path, scores, "review,score")).train.classes == ("0.0", "0.1")  # numbers are no names of files
    reviews(path).write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # with a byte order mark
    assert texts(path).train.size == 17 and table_format(path) == "texts"


def test_vectors_of_words_come_from_three_kinds_of_files(tmp_path):
    known, want = ("great", "film", "é"), np.array([[1, 2], [0, 0], [3, 4]], np.float32)
    (tmp_path / "glove.txt").write_text("Great 1 2\nother 9 9\né 3 4\ngreat 7 7\n", "utf-8")
    (tmp_path / "fast.vec").write_text("3 2\ngreat 1 2\né 3 4 \nx 1 1\n", "utf-8")
    np.savez(tmp_path / "own.npz", words=np.array(["é", "great"]), vectors=np.array([[3, 4], [1, 2.0]]))
    for name in ("glove.txt", "fast.vec", "own.npz"):
        vectors, found = read_vectors(tmp_path / name, known)
        assert found.tolist() == [True, False, True] and (vectors == want).all() and vectors.dtype == np.float32


def test_files_of_vectors_that_are_refused(tmp_path):
    path = tmp_path / "a.txt"
    for content, line in (
        ("great 1 2\nfilm 1\n", "'film' has 1 numbers, and others 2"), ("great 1 x\n", "line 1: could not convert"),
        ("great 1 nan\n", "the vector of 'great' is not finite"), ("other 1 2\n", "a vector of none of the 2 words"),
        ("great\n", "line 1: must be a word and 1 to"), ("", "has a vector of none"),
    ):  # fmt: skip
        path.write_text(content, "utf-8")
        refused(line, read_vectors, path, ("great", "film"))
    refused("nosuch.vec: cannot be read", read_vectors, tmp_path / "nosuch.vec", ("great",))
    np.savez(tmp_path / "b.npz", words=np.array(["great"]))
    refused("needs arrays 'words'", read_vectors, tmp_path / "b.npz", ("great",))
    np.savez(tmp_path / "b.npz", words=np.array([1, 2]), vectors=np.zeros((2, 3)))
    refused("must be texts .N. and numbers", read_vectors, tmp_path / "b.npz", ("great",))
    (tmp_path / "c.npz").write_bytes(b"PK damaged")
    refused("cannot be read", read_vectors, tmp_path / "c.npz", ("great",))
