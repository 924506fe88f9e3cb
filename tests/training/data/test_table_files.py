import sys

import numpy as np
import pandas as pd
import pytest

from lstm_deploy.errors import InputError, MissingPackageError
from lstm_deploy.training.data.series import read_series
from lstm_deploy.training.data.table_files import read_table

TABLE = pd.DataFrame({"a": [1.0, 2.5, -3.0], "b": [4, 5, 6]})


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_csv_with_any_usual_separator_is_read(tmp_path, separator):
    TABLE.to_csv(tmp_path / "t.csv", sep=separator, index=False)
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.csv"), TABLE)


def test_parquet_is_read_with_its_index_of_dates(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'lstm-deploy[parquet]'")
    dated = TABLE.set_index(pd.date_range("2024-01-01", periods=3, name="day"))
    dated.to_parquet(tmp_path / "t.parquet")
    series = read_series(tmp_path / "t.parquet")
    assert series.columns == ("a", "b")
    assert series.values.tolist() == TABLE.to_numpy().tolist()
    assert series.labels[0] == "2024-01-01"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r'pip install "lstm-deploy\[parquet\]"'):
        read_table(tmp_path / "t.parquet")


def test_arrays_are_read_as_columns(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(4.0))
    np.save(tmp_path / "two.npy", np.arange(6).reshape(3, 2))
    np.save(tmp_path / "record.npy", np.array([(1, 2.0)], dtype=[("u", int), ("v", float)]))
    np.savez(tmp_path / "named.npz", a=np.arange(3), b=np.ones(3))
    assert list(read_table(tmp_path / "one.npy").columns) == ["c0"]
    assert read_table(tmp_path / "two.npy").to_dict("list") == {"c0": [0, 2, 4], "c1": [1, 3, 5]}
    assert list(read_table(tmp_path / "record.npy").columns) == ["u", "v"]
    assert list(read_table(tmp_path / "named.npz").columns) == ["a", "b"]


def test_arrays_of_another_byte_order_are_read(tmp_path):
    for order in "<>":
        np.save(tmp_path / "a.npy", np.arange(4, dtype=f"{order}f8"))
        np.savez(tmp_path / "a.npz", a=np.arange(4, dtype=f"{order}f4"))
        np.save(tmp_path / "r.npy", np.array([(1, 2.5)], dtype=[("u", f"{order}i4"), ("v", f"{order}f8")]))
        for name in ("a.npy", "a.npz"):
            assert read_series(tmp_path / name).values[:, 0].tolist() == [0, 1, 2, 3]
        assert read_series(tmp_path / "r.npy").values.tolist() == [[1, 2.5]]


def test_other_files_are_refused(tmp_path):
    np.save(tmp_path / "cube.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "complex.npy", np.zeros(3, complex))
    np.save(tmp_path / "nested.npy", np.zeros(3, [("y", "f8", (2,))]))
    np.save(tmp_path / "grid.npy", np.zeros((3, 2), [("y", "f8")]))
    np.savez(tmp_path / "archive.npz", a=np.zeros(2))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "text.parquet").write_text("hello")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("a,b\n")
    for name, message in {
        "cube.npy": r"shape \[2, 2, 2\]",
        "complex.npy": "holds complex128",
        "nested.npy": "give numbers, or records of single ones",
        "grid.npy": "give numbers, or records of single ones",
        "objects.npy": "not a .npy file of one plain array",
        "archive.npy": "several arrays",
        "text.npy": "not a .npy file",
        "text.parquet": "not a Parquet file",
        "empty.csv": "is empty",
        "header.csv": "has no rows",
        "gone.parquet": "does not exist",
        "gone.npy": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / name)
    for suffix in (".csv", ".npy", ".npz", ".parquet"):
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(InputError, match="is a directory"):
            read_table(tmp_path / f"folder{suffix}")


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (("19,86", "-21,1", "22"), [19.86, -21.1, 22]),
        (("1.469,13", "999,5", "1.234.567,0"), [1469.13, 999.5, 1234567]),
        (("0,125", "1,250", "2,500"), [0.125, 1.25, 2.5]),
        (("1,5e3", "", "2,5"), [1500, 1500, 2.5]),
    ],
)
def test_decimal_commas_between_semicolons_are_read(tmp_path, cells, values):
    path = tmp_path / "t.csv"
    path.write_text("tag;wert;n\n" + "".join(f"0{n}.01.2024;{cell};{n}\n" for n, cell in enumerate(cells, 1)))
    series = read_series(path, ["wert", "n"])
    assert series.values.tolist() == [[value, n] for n, value in enumerate(values, 1)]
    assert series.labels[0] == "01.01.2024"


def test_points_of_thousands_are_known_by_the_decimal_commas_beside_them(tmp_path):
    (tmp_path / "t.csv").write_text("wert;stück\n1,5;1.250\n2,5;987\n", encoding="utf-8")
    assert read_series(tmp_path / "t.csv").values.tolist() == [[1.5, 1250], [2.5, 987]]


def test_a_word_among_decimal_commas_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("wert;n\n1,5;1\n2,5;2\nn/k;3\n", encoding="utf-8")
    with pytest.raises(InputError, match="Row 3 of column 'wert'.*'n/k'"):
        read_series(tmp_path / "t.csv", ["wert"])


def test_decimal_points_between_semicolons_stay_points_beside_texts_with_commas(tmp_path):
    (tmp_path / "t.csv").write_text("a;note\n1.250;x, y\n1.5;z\n", encoding="utf-8")
    assert read_series(tmp_path / "t.csv").values.tolist() == [[1.25], [1.5]]


@pytest.mark.parametrize("first", ["2024-01-01,101.2", "1,2.5", "5", "01.02.2024 00:00;3", "3,3"])
def test_a_file_without_a_header_is_refused_with_one_that_fits(tmp_path, first):
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n{first}\n")
    with pytest.raises(InputError, match="has no header: its first line is") as error:
        read_table(path)
    header = str(error.value).partition("for example ")[2].strip("'.")
    path.write_text(f"{header}\n{path.read_text()}")
    assert len(read_table(path)) == 2


@pytest.mark.parametrize("header", ["0,1", "0", "2019,2020,2021"])
def test_consecutive_numbers_are_names(tmp_path, header):
    (tmp_path / "t.csv").write_text(f"{header}\n{header}\n")
    assert list(read_table(tmp_path / "t.csv").columns) == header.split(",")
