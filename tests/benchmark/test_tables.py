import csv
import io

from documents import document, row

from lstm_deploy.benchmark import tables


def column(document, heading):
    headings, rows = tables.table(document)
    return [cells[headings.index(heading)] for cells in rows]


def test_only_columns_that_vary_are_shown():
    benchmark = document(row(), row(batch=32))
    assert column(benchmark, "batch") == ["1", "32"]
    assert "threads" not in tables.table(benchmark)[0]
    assert "scope" not in tables.table(benchmark)[0]


def test_ratios_have_intervals_and_noise_is_no_difference():
    benchmark = document(
        row("eager", p50=100.0, ratio_to_baseline=1.0, ratio_interval=[1, 1]),
        row(),
        row("other", verdict="no difference"),
        row("alone", baseline=None, ratio_to_baseline=None, ratio_interval=None, verdict=None),
    )
    assert column(benchmark, "÷ baseline") == ["1", "0.123 (0.121–0.126)", "no difference", "–"]


def test_the_limit_is_named_and_left_out_where_it_was_not_measured():
    assert column(document(row(), row(limit=None)), "of peak") == ["25% L2", "–"]
    assert "of peak" not in tables.table(document(row(), peaks=[]))[0]


def test_the_fastest_variant_of_each_case_is_named():
    benchmark = document(
        row("eager", p50=10.0),
        row("onnx", p50=20.0),
        row("floor", p50=1.0),
        row("eager", p50=90.0, batch=256),
        row("onnx", p50=30.0, batch=256),
        row("onnx again", p50=29.0, batch=256, again=True),
    )
    assert tables.fastest(benchmark) == ["fastest: eager for batch 1.", "fastest: onnx for batch 256."]
    alike = document(row("eager", p50=10.0), row("onnx", p50=20.0))
    assert tables.fastest(alike) == ["fastest: eager."]
    assert "- fastest: eager." in tables.markdown(alike)
    assert tables.fastest(document(row())) == []


def test_too_few_calls_have_no_99th_percentile():
    assert column(document(row(), row(p99_us=2000.0)), "p99 µs") == ["–", "2,000"]


def test_loading_and_memory_are_listed_once_per_variant():
    _, rows = tables.startup_table(document(row(), row(batch=32, first_call_us=90.0), row("onnx again")))
    assert rows == [["onnx", "100", "0.09", "80.5", "CPUExecutionProvider"]]


def test_markdown_names_the_machine_what_was_left_out_and_what_is_unreliable():
    text = tables.markdown(
        document(row(warnings=["It is unstable."]), left_out=["eager: the model is gone"]),
    )
    assert "A CPU, 2 core(s) to use (avx2)." in text
    assert "- left out: eager: the model is gone." in text
    assert "- onnx, stream, end to end, batch 1: It is unstable." in text
    assert "at best 100 in float32, 400 in int8 billion operations per second; 100 from L1" in text


def test_many_unstable_rows_are_one_line():
    shaky = row(warnings=[f"{tables.UNSTABLE_SAYS} 1 and 2 µs."])
    assert len(tables.warnings(document(shaky, shaky))) == 2
    lines = tables.warnings(document(*[shaky] * 6, row(warnings=["Its outputs differ."])))
    assert len(lines) == 2
    assert lines[0].startswith("6 of 7 rows")
    assert "Its outputs differ." in lines[1]


def test_csv_has_all_fields_except_samples():
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(document(row(), row(batch=32))))))
    assert [cells["batch"] for cells in rows] == ["1", "32"]
    assert float(rows[0]["p50_us"]) == 12.345
    assert rows[0]["ratio_interval"].split()[0] == str(12.345 / 100 * 0.98)
    assert "samples_us" not in rows[0]
