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
        ("words,label\na,b\n", "no column 'text', which --text-column names; choose from words, label"),
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
