import numpy as np
import pytest
from hypothesis import given, strategies as st

from lstm_deploy.errors import InputError
from lstm_deploy.training.data import labelled_texts


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_texts_and_labels_are_read_and_incomplete_rows_left_out(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label,more\n"so, good",1,x\n  ,0,x\nbad,,x\nworse,0,x\n')
    found = labelled_texts.read_labelled(path)
    assert (found.texts, found.labels, found.dropped) == (("so, good", "worse"), ("1", "0"), 2)
    other = labelled_texts.read_labelled(path, "more", "text")
    assert other.labels[0] == "so, good"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words,label\na,b\n", "no column 'text'; name one with --text-column: words, label"),
        ("text,class\na,b\n", "no column 'label'; name one with --label-column"),
        ("text,label\n,\n", "No row of .* has both"),
        ("", "is empty"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        labelled_texts.read_labelled(write(tmp_path / "a.csv", content))


@given(
    st.lists(st.integers(3, 30), min_size=2, max_size=5),
    st.floats(0.05, 0.5),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.integers(0, 99),
)
def test_a_split_has_each_row_once_and_each_label_in_each_part(counts, test, validation, seed):
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    parts = labelled_texts.split(labels, test, validation, seed)
    again = labelled_texts.split(labels, test, validation, seed)
    assert np.array_equal(parts.test, again.test)
    assert sorted([*parts.fit, *parts.validate, *parts.test]) == list(range(len(labels)))
    for part in (parts.fit, parts.test, *([parts.validate] if validation else [])):
        assert {labels[row] for row in part} == set(labels)


def test_a_label_with_three_rows_is_in_every_part_whatever_the_parts():
    labels = ["rare"] * 3 + ["often"] * 40
    for test, validation in ((0.5, 0.1), (0.9, 0.5), (0.99, 0.99)):
        parts = labelled_texts.split(labels, test, validation, 0)
        for part in (parts.fit, parts.validate, parts.test):
            assert {labels[row] for row in part} == {"rare", "often"}
    half = labelled_texts.split(["x"] * 100, 0.5, 0.5, 0)
    assert (len(half.test), len(half.validate), len(half.fit)) == (50, 25, 25)


def test_words_for_nothing_are_labels_like_any_other(tmp_path):
    found = labelled_texts.read_labelled(write(tmp_path / "a.csv", "text,label\nNA,None\nnull,01\n"))
    assert (found.texts, found.labels) == (("NA", "null"), ("None", "01"))


def test_a_label_with_too_few_rows_is_refused_by_name():
    with pytest.raises(InputError, match="Label 'rare' has 2 row"):
        labelled_texts.split(["a"] * 9 + ["rare"] * 2, 0.2, 0.1, 0)


def test_the_vocabulary_is_what_occurs_often_the_most_frequent_first():
    texts = ["B b a", "b, a!", "c"]
    assert labelled_texts.vocabulary_of(texts, "token", 10, 2) == ("<unk>", "b", "a")
    assert labelled_texts.vocabulary_of(texts, "token", 2, 1) == ("<unk>", "b")
    assert labelled_texts.vocabulary_of(texts, "word", 10, 1) == ("<unk>", "B", "a", "a!", "b", "b,", "c")
    with pytest.raises(InputError, match="occurs 9 times"):
        labelled_texts.vocabulary_of(texts, "token", 10, 9)


def test_vectors_are_read_from_text_with_and_without_a_first_line_and_from_npz(tmp_path):
    lines = "good 1 2 3\nvery bad 4 5 6\n"
    dotted = labelled_texts.read_vectors(write(tmp_path / "d.txt", ". . . 1 2 3\nnext\x85\u2028\xa0 4 5 6\n"))
    assert dotted.index == {". . .": 0, "next\x85\u2028\xa0": 1}
    plain = labelled_texts.read_vectors(write(tmp_path / "v.txt", lines))
    counted = labelled_texts.read_vectors(write(tmp_path / "w.txt", f"2 3\n{lines}"))
    np.savez(tmp_path / "v.npz", words=np.array(["good", "very bad"]), vectors=np.arange(1.0, 7).reshape(2, 3))
    packed = labelled_texts.read_vectors(tmp_path / "v.npz")
    for found in (plain, counted, packed):
        assert found.index == {"good": 0, "very bad": 1}
        assert found.values.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("good\nbad\n", "holds no vector"),
        ("good 1 2\nbad 1\n", "'bad 1' in .* is no word with its vector"),
        ("good 1 2\nbad 1 x\n", "'bad 1 x' in .* is no word with its vector"),
        ("good 1 2\nbad 1 inf\n", "not finite"),
        ("good 1 2\nbad 1 1e300\n", "not finite"),
    ],
)
def test_files_that_are_no_vectors_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        labelled_texts.read_vectors(write(tmp_path / "v.txt", content))


def test_archives_that_are_no_vectors_are_refused(tmp_path):
    path = tmp_path / "v.npz"
    with pytest.raises(InputError, match="does not exist"):
        labelled_texts.read_vectors(path)
    for arrays, message in (
        ({"words": np.array(["a"])}, "needs the arrays"),
        ({"words": np.array(["a"], dtype=object), "vectors": np.zeros((1, 2))}, "plain arrays"),
        ({"words": np.array(["a"]), "vectors": np.zeros((2, 2))}, r"words in .* is \[1\] and vectors \[2, 2\]"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=message):
            labelled_texts.read_vectors(path)


def test_words_without_a_vector_get_one_like_the_others(tmp_path):
    vectors = labelled_texts.read_vectors(write(tmp_path / "v.txt", "a 1 3\nb 3 1\n"))
    matrix, found = labelled_texts.embed(("<unk>", "a", "b", "c"), vectors, 0)
    assert found == 2
    assert matrix[0].tolist() == [2, 2]
    assert matrix[1].tolist() == [1, 3]
    assert np.isfinite(matrix[3]).all()
    assert matrix[3].tolist() == labelled_texts.embed(("<unk>", "a", "b", "c"), vectors, 0)[0][3].tolist()
