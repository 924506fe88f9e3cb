import itertools

import pytest
from rich.cells import cell_len

from lstm_deploy.cli import layout

HEADINGS = ["variant", "p50 µs", "p90 µs", "note"]
ROWS = [
    ["onnx int8", "123,197,019", "1", "a sentence of many words that is far longer than what is left of a line"],
    ["torchscript", "2", "–", ("embedding", "dim")],
]


def words(lines):
    return [word for line in lines for word in line.plain.split()]


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200, None])
def test_no_word_and_no_number_is_broken_at_any_width(width):
    lines = layout.table(HEADINGS, ROWS, width)
    assert set(words(lines)) >= {"123,197,019", "torchscript", "embedding", "sentence"}
    longest = max(map(cell_len, words(lines)))
    assert all(line.cell_len <= max(width or 1000, longest + 14) for line in lines)
    assert all(line.plain == line.plain.rstrip() for line in lines)


def test_optional_columns_are_left_out_in_their_order():
    optional = ("p90 µs", "p50 µs")
    shown = {
        width: layout.table(HEADINGS[:3], [row[:3] for row in ROWS], width, optional=optional)[0].plain.split()
        for width in (80, 30, 20)
    }
    assert shown == {80: ["variant", "p50", "µs", "p90", "µs"], 30: ["variant", "p50", "µs"], 20: ["variant"]}


def test_an_optional_column_without_entries_is_left_out():
    lines = layout.table(["a", "b"], [["x", "–"], ["y", ""]], 80, optional=("b",))
    assert [line.plain for line in lines] == ["  a", "  x", "  y"]


def test_numbers_are_aligned_to_the_right_and_texts_to_the_left():
    lines = layout.table(["name", "µs"], [["a", "1.5"], ["long name", "12,000"]], 80)
    assert [line.plain for line in lines] == ["  name           µs", "  a             1.5", "  long name  12,000"]


def test_the_last_column_wraps_below_its_beginning():
    lines = [line.plain for line in layout.table((), [["name", "one two three four five six seven"]], 34)]
    assert lines == ["  name  one two three four five", "        six seven"]


def test_tables_can_be_as_wide_as_others():
    both = [["a", "1"], ["long name", "1,000"]]
    assert layout.table(["x", "y"], both[:1], 80, like=both)[1].plain == "  a              1"


def test_bars_are_as_long_as_their_parts_in_what_is_left():
    lines = layout.table(["x"], [["a"], ["b"], ["c"]], 25, bars=[1, 0.5, 0.001])
    assert [line.plain.partition("█")[1:] != ("", "") for line in lines] == [False, True, True, False]
    assert lines[1].cell_len == 25
    assert lines[2].plain.count("█") == lines[1].plain.count("█") // 2
    assert lines[3].plain.endswith("▌")
    assert "█" not in layout.table(["x"], [["a" * 20]], 25, bars=[1])[1].plain


def test_a_paragraph_wraps_between_words_after_its_hang():
    text = "warning: a sentence with/a/very/long/path/that/is/longer/than/a/line and more"
    lines = [line.plain for line in layout.paragraph([text], 30, 2)]
    assert lines == ["warning: a sentence", "  with/a/very/long/path/that/is/longer/than/a/line", "  and more"]
    assert [line.plain for line in layout.paragraph([text], None)] == [text]


def test_styles_survive_wrapping():
    lines = layout.paragraph([("one two three", "red"), " four five six"], 14, 0)
    assert [line.plain for line in lines] == ["one two three", "four five six"]
    assert [bool(line.spans) for line in lines] == [True, False]


def test_wide_letters_count_as_two_columns():
    lines = layout.paragraph(["漢字 " * 10], 20)
    assert all(line.cell_len <= 20 for line in itertools.islice(lines, 9))
