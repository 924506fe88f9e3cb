import numpy as np
import pytest

from lstm_deploy.errors import InputError
from lstm_deploy.training.data.word_vectors import initial_embedding, read_word_vectors


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_vectors_are_read_from_text_with_and_without_a_first_line_and_from_npz(tmp_path):
    lines = "good 1 2 3\nvery bad 4 5 6\n"
    dotted = read_word_vectors(write(tmp_path / "d.txt", ". . . 1 2 3\nnext\x85\u2028\xa0 4 5 6\n"))
    assert dotted.index == {". . .": 0, "next\x85\u2028\xa0": 1}
    plain = read_word_vectors(write(tmp_path / "v.txt", lines))
    counted = read_word_vectors(write(tmp_path / "w.txt", f"2 3\n{lines}"))
    np.savez(tmp_path / "v.npz", words=np.array(["good", "very bad"]), vectors=np.arange(1.0, 7).reshape(2, 3))
    packed = read_word_vectors(tmp_path / "v.npz")
    for vectors in (plain, counted, packed):
        assert vectors.index == {"good": 0, "very bad": 1}
        assert vectors.values.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("good\nbad\n", "holds no vector"),
        ("good 1 2\nbad 1\n", "'bad 1' in .* is not a word and its vector"),
        ("good 1 2\nbad 1 x\n", "'bad 1 x' in .* is not a word and its vector"),
        ("good 1 2\nbad 1 inf\n", "not finite"),
        ("good 1 2\nbad 1 1e300\n", "not finite"),
    ],
)
def test_files_that_are_no_vectors_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_word_vectors(write(tmp_path / "v.txt", content))


def test_archives_that_are_no_vectors_are_refused(tmp_path):
    path = tmp_path / "v.npz"
    with pytest.raises(InputError, match="does not exist"):
        read_word_vectors(path)
    for arrays, message in (
        ({"words": np.array(["a"])}, "needs the arrays"),
        ({"words": np.array(["a"], dtype=object), "vectors": np.zeros((1, 2))}, "plain arrays"),
        ({"words": np.array(["a"]), "vectors": np.zeros((2, 2))}, r"words in .* is \[1\] and vectors \[2, 2\]"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(InputError, match=message):
            read_word_vectors(path)


def test_words_without_a_vector_get_one_like_the_others(tmp_path):
    vectors = read_word_vectors(write(tmp_path / "v.txt", "a 1 3\nb 3 1\n"))
    matrix, found = initial_embedding(("<unk>", "a", "b", "c"), vectors, 0)
    assert found == 2
    assert matrix[0].tolist() == [2, 2]
    assert matrix[1].tolist() == [1, 3]
    assert np.isfinite(matrix[3]).all()
    assert matrix[3].tolist() == initial_embedding(("<unk>", "a", "b", "c"), vectors, 0)[0][3].tolist()
