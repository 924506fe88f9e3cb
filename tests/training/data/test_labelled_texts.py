import pytest

from lstm_deploy.errors import InputError
from lstm_deploy.training.data.labelled_texts import read_labelled_texts


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def test_texts_and_labels_are_read_and_incomplete_rows_left_out(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label,more\n"so, good",1,x\n  ,0,x\nbad,,x\nworse,0,x\n')
    read = read_labelled_texts(path, None, None)
    assert (read.texts, read.labels, read.dropped) == (("so, good", "worse"), ("1", "0"), 2)
    other = read_labelled_texts(path, "more", "text")
    assert other.labels[0] == "so, good"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("words,label\na,b\n", "no column 'text', which --text-column names; choose from words"),
        ("text,class\na,b\n", "no column 'label', which --label-column names; choose from text, class"),
        ("text,label\n,\n", "No row of .* has both"),
        ("", "is empty"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_labelled_texts(write(tmp_path / "a.csv", content), None, None)


def test_na_and_none_are_words_like_any_other(tmp_path):
    read = read_labelled_texts(write(tmp_path / "a.csv", "text,label\nNA,None\nnull,01\n"), None, None)
    assert (read.texts, read.labels) == (("NA", "null"), ("None", "01"))


NUMBERS = "window,ax,ay,label\n0,0.2,,rest\n0,0.3,1e5,walk\n"


def test_numbers_are_no_texts(tmp_path):
    path = write(tmp_path / "a.csv", NUMBERS)
    with pytest.raises(InputError, match="has no column of texts, and --task classify learns from texts"):
        read_labelled_texts(path, None, None)
    with pytest.raises(InputError, match="Column 'ax' of .* holds numbers, and --task classify learns from texts"):
        read_labelled_texts(path, "ax", None)


def test_only_columns_of_texts_are_offered(tmp_path):
    path = write(tmp_path / "a.csv", "n,review,stars\n1,good,5\n2,bad,1\n")
    with pytest.raises(InputError, match=r"no column 'text', .*; choose from review\.$"):
        read_labelled_texts(path, None, "stars")
    assert read_labelled_texts(path, "review", "stars").labels == ("5", "1")
