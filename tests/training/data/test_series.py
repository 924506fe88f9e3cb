import shlex
import subprocess
import sys

import numpy as np
import pytest

from lstm_deploy.artifacts.files import read_text
from lstm_deploy.errors import InputError
from lstm_deploy.training.data.series import generate, read_series


@pytest.fixture
def csv(tmp_path):
    def write(text: str, name: str = "a b ü.csv", encoding: str = "utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_dates_become_labels_and_numbers_columns(csv):
    series = read_series(csv("day,open,close\n2024-01-02,1,2\n2024-01-03,3,4.5\n"))
    assert series.columns == ("open", "close")
    assert series.labels == ("2024-01-02", "2024-01-03")
    assert series.values.tolist() == [[1, 2], [3, 4.5]]


def test_columns_are_found_by_name_in_the_order_asked(csv):
    series = read_series(csv("b,a,c\n1,2,3\n"), ["c", "a"])
    assert series.values.tolist() == [[3, 2]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_line_ends_and_byte_order_marks_do_not_matter(csv, separator, ending, mark):
    text = ending.join(separator.join(row) for row in (("a", "b"), ("1", "2"), ("3", "4")))
    series = read_series(csv(mark + text + ending))
    assert series.columns == ("a", "b")
    assert series.values.tolist() == [[1, 2], [3, 4]]


def test_missing_values_take_the_latest_before_them(csv):
    series = read_series(csv("a,b\n,1\n1,\n2,5\n,\nNaN,7\n"))
    assert series.values.tolist() == [[1, 1], [2, 5], [2, 5], [2, 7]]
    assert (series.dropped, series.filled) == (1, 4)


def test_rows_before_every_column_has_a_value_are_dropped(csv):
    assert read_series(csv("a,b\n1,\n2,\n3,4\n5,6\n")).values.tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("   \n", "empty"),
        ("a,b\n", "no rows"),
        ("a,b\nx,y\n", "no column of numbers"),
        ("a,b\n1,2\n1,x\n3,4\n", "Row 2 of column 'b'.*'x'"),
        ("a,b\n1,inf\n", "infinite"),
        ("date,a\n2024-01-02,1\n2024-01-01,2\n", "out of order"),
        ("a,b\n1,2\n1,2,3\n", "not a table, as line 3 has 3 cell.* before it have 2; give"),
        ("a,b\n1,2,3\n", "not a table, as a row has more cells than the header; give"),
        ('a,b\n1,"2\n', "not a table, as a quotation mark in row 1 has no other one; give"),
    ],
)
def test_malformed_series_are_refused(csv, text, message):
    with pytest.raises(InputError, match=message):
        read_series(csv(text))


def test_columns_without_information_are_ignored_unless_requested(csv):
    path = csv("name,a,flat,none,on\nA,1,7,,True\nB,2,7,,False\n")
    series = read_series(path)
    assert series.columns == ("a",)
    assert series.left_out == ("name", "flat", "none", "on")
    assert read_series(path, ["flat"]).values.tolist() == [[7], [7]]
    with pytest.raises(InputError, match="'none'.*no value"):
        read_series(path, ["none"])


@pytest.mark.parametrize(
    "dates",
    [
        ("2024-01-30", "2024-02-01"),
        ("30/01/2024", "01/02/2024"),
        ("30.01.2024", "01.02.2024"),
        ("01/30/2024", "02/01/2024"),
        ("30-Jan-2024", "01-Feb-2024"),
        ("Jan 30, 2024", "Feb 1, 2024"),
        ("20240130", "20240201"),
        ("2024-03-31T00:00:00+01:00", "2024-03-31T04:00:00+02:00"),
    ],
    ids=str,
)
def test_dates_are_recognised_however_they_are_written(csv, dates):
    series = read_series(csv("date;a\n" + "".join(f"{date};{number}\n" for number, date in enumerate(dates))))
    assert series.columns == ("a",)
    assert series.labels == dates


def test_numbers_with_thousands_separators_are_no_dates(csv):
    with pytest.raises(InputError, match="'1,000', not a number"):
        read_series(csv('close;open\n"1,000";1\n"1,001";2\n'), ["close"])


@pytest.mark.parametrize("value", ["1e39", "9" * 400])
def test_values_beyond_float32_are_refused(csv, value):
    with pytest.raises(InputError, match="float32"):
        read_series(csv(f"a,b\n1,2\n{value},3\n"), ["a"])


def test_a_missing_column_is_named_with_those_available(csv):
    with pytest.raises(InputError, match="no column 'Close'; did you mean 'close'\\? Choose from open, close"):
        read_series(csv("open,close\n1,2\n"), ["Close"])


def test_text_among_numbers_is_named_with_its_row(csv):
    with pytest.raises(InputError, match="Row 2 of column 'a'.*'n/k'"):
        read_series(csv("a,b\n1,2\nn/k,4\n"), ["a"])


def test_npz_of_columns(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.arange(3.0), b=np.array([1, np.nan, 3]))
    assert read_series(tmp_path / "x.npz").values.tolist() == [[0, 1], [1, 1], [2, 3]]


def test_npz_of_records(tmp_path):
    records = np.array([("2024-01-01", 1.0), ("2024-01-02", 2.0)], [("date", "M8[D]"), ("close", "f8")])
    np.savez(tmp_path / "x.npz", prices=records)
    series = read_series(tmp_path / "x.npz")
    assert series.columns == ("close",)
    assert series.labels[1].startswith("2024-01-02")


@pytest.mark.parametrize(
    "arrays",
    [{}, {"a": np.zeros((2, 3))}, {"a": np.zeros(2), "b": np.zeros(3)}, {"a": np.array([{}, {}])}],
    ids=["none", "matrix", "unequal", "pickled"],
)
def test_other_npz_files_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InputError):
        read_series(tmp_path / "x.npz")


@pytest.mark.parametrize("name", ["x.npz", "x.csv"])
@pytest.mark.parametrize("content", [b"PK\x03\x04 not a zip", b"\x93NUMPY", b"\xff\xfe\x00\x01", b"\x00" * 50])
def test_garbage_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError):
        read_series(tmp_path / name)


@pytest.mark.parametrize("read", [read_series, read_text])
def test_missing_files_and_directories_are_refused(tmp_path, read):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)


def test_text_is_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("naïve\n".encode())
    assert read_text(tmp_path / "a.txt") == "naïve\n"
    (tmp_path / "b.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_text(tmp_path / "b.txt")


def test_the_sine_follows_its_formula():
    series = generate("sine")
    assert series.values.shape == (1000, 1)
    np.testing.assert_allclose(series.noiseless[:, 0], np.sin(np.linspace(0, 20 * np.pi, 1000)))
    assert np.std(series.values - series.noiseless) == pytest.approx(0.1, rel=0.1)


def test_the_sines_follow_their_formula():
    series = generate("sines", 3000, seed=4)
    time = np.arange(3000)
    np.testing.assert_allclose(series.noiseless[:, 0], 3 * np.sin(time) + np.cos(5 * time) + 6)
    assert np.std(series.values - series.noiseless) == pytest.approx(1, rel=0.1)


def test_the_seed_determines_the_noise():
    first, repeated, other = (generate("sine", 10, seed=seed).values for seed in (1, 1, 2))
    assert np.array_equal(first, repeated)
    assert not np.array_equal(first, other)


def machines(order, separator=",", names=("A", "B's", "C")):
    """Twelve days of three machines, sorted by date or by machine."""
    rows = [(f"2024-01-{day:02}", name, f"{day}.{index}") for day in range(1, 13) for index, name in enumerate(names)]
    rows.sort(key=lambda row: row[order])
    return "\n".join(separator.join(row) for row in [("time", "the machine", "load"), *rows]) + "\n"


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("separator", "names"), [(",", ("B's", "A", "C")), (";", ("1", "2", "3"))])
def test_several_series_in_one_file_are_refused_with_a_command_that_keeps_one(csv, order, separator, names):
    path = csv(machines(order, separator, names))
    with pytest.raises(
        InputError, match=r"each date up to 3 times in column 'time', once for each 'the machine'"
    ) as error:
        read_series(path)
    program, code = shlex.split(str(error.value).partition("(for example: ")[2].removesuffix(")."))[1:]
    assert program == "-c"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=path.parent)
    (kept,) = path.parent.glob(f"{path.stem}-*.csv")
    assert len(read_series(kept, ["load"]).values) == 12


def test_several_series_are_refused_whichever_columns_are_asked_for(csv):
    with pytest.raises(InputError, match="several series"):
        read_series(csv(machines(0)), ["load"])


def test_a_few_dates_that_come_twice_are_counted(csv):
    days = [*range(1, 29), 28]
    series = read_series(
        csv("day,note,a\n" + "".join(f"2024-01-{d:02},{'xyz'[n % 3]},{n}\n" for n, d in enumerate(days)))
    )
    assert series.same_dates == 1


def test_dates_that_all_come_twice_without_a_name_are_counted(csv):
    series = read_series(csv("day,a\n" + "".join(f"2024-01-{1 + n // 2:02},{n / 7}\n" for n in range(20))))
    assert series.same_dates == 10


@pytest.mark.parametrize(("encoding", "named"), [("cp1252", "cp1252"), ("utf-16", "utf-16")])
def test_a_file_that_is_not_utf8_is_refused_with_the_command_that_converts_it(csv, encoding, named, monkeypatch):
    path = csv("größe\n1\n2\n", encoding=encoding)
    monkeypatch.chdir(path.parent)
    with pytest.raises(InputError, match=f"iconv -f {named}") as error:
        read_series(path)
    subprocess.run(str(error.value).partition("(for example: ")[2].removesuffix(")."), shell=True, check=True)
    assert read_series(path.with_name(f"{path.stem}-utf8.csv")).columns == ("größe",)


@pytest.mark.parametrize("cell", ["1,250.50", "1'250.5", "$1250", "12 %", "1 250"])
def test_columns_that_look_like_numbers_are_named_with_a_cell(csv, cell):
    path = csv(f'day,v,w,name\n2024-01-01,"{cell}",0,x\n2024-01-02,"{cell}",1,y\n')
    series = read_series(path)
    assert series.unread == {"v": cell}
    assert series.left_out == ("v", "name")
    with pytest.raises(InputError, match="write numbers as 1234.5, or exclude the column"):
        read_series(path, ["v", "w"])
    with pytest.raises(InputError, match="no column of numbers: 'v' holds"):
        read_series(csv(f'day,v\n2024-01-01,"{cell}"\n2024-01-02,"{cell}"\n'))


def test_columns_that_a_model_needs_are_not_to_be_left_out(csv):
    for text in ("a,b\n1,x\n2,3\n3,4\n", "a,b\n1,\n2,\n"):
        with pytest.raises(InputError) as error:
            read_series(csv(text), ["a", "b"], fixed=True)
        assert "--features" not in str(error.value)
