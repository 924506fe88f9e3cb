import pytest

from lstm_deploy.errors import InputError
from lstm_deploy.training.data.vocabularies import build_vocabulary, read_vocabulary


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_a_vocabulary_has_the_most_frequent_units_first():
    texts = ["B b a", "b, a!", "c"]
    assert build_vocabulary(texts, "token", 10, 2) == ("<unk>", "b", "a")
    assert build_vocabulary(texts, "token", 2, 1) == ("<unk>", "b")
    assert build_vocabulary(texts, "word", 10, 1) == ("<unk>", "B", "a", "a!", "b", "b,", "c")
    with pytest.raises(InputError, match="occurs 9 times"):
        build_vocabulary(texts, "token", 10, 9)


@pytest.mark.parametrize(
    ("text", "name", "characters", "expected"),
    [
        ('["b", "a"]', "v.json", True, (("b", "a"), None)),
        ('{"b": 1, "a": 0}', "v.json", True, (("a", "b"), None)),
        ('["[UNK]", "good"]', "v.json", False, (("[UNK]", "good"), 0)),
        ('["a", "<unk>"]', "v.json", True, (("a", "<unk>"), 1)),
        ("banana\n", "v.txt", True, (("\n", "a", "b", "n"), None)),
        ("good\nbad  film", "v.txt", False, (("good", "bad", "film"), None)),
    ],
)
def test_a_vocabulary_is_read_in_the_order_of_its_tokens(tmp_path, text, name, characters, expected):
    assert read_vocabulary(write(tmp_path / name, text), characters=characters) == expected


@pytest.mark.parametrize(
    ("text", "name", "characters", "reason"),
    [
        ("[1, 2]", "v.json", True, "not a list of entries"),
        ('"abc"', "v.json", True, "not a list of entries"),
        ('{"a": 0, "b": 2}', "v.json", True, "tokens 0 to 1, each once"),
        ('{"a": 0, "b": 0}', "v.json", True, "tokens 0 to 1, each once"),
        ('{"a": "x"}', "v.json", True, "tokens 0 to 0, each once"),
        ("{", "v.json", True, "not JSON"),
        pytest.param("[" * 100_000, "v.json", True, "not JSON", id="deep"),
        ('["ab"]', "v.json", True, "'ab', which is not one character"),
        ('["a", ""]', "v.json", False, "not a list of entries"),
        ("a b a", "v.txt", False, "an entry twice"),
    ],
)
def test_malformed_vocabularies_are_refused(tmp_path, text, name, characters, reason):
    with pytest.raises(InputError, match=reason):
        read_vocabulary(write(tmp_path / name, text), characters=characters)
