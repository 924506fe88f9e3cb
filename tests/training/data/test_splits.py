import numpy as np
import pytest
from hypothesis import given, strategies as st

from lstm_deploy.errors import InputError
from lstm_deploy.training.data.splits import split_by_label, split_series, split_tokens


@given(st.integers(10, 500), st.integers(1, 5), st.floats(0.01, 0.5), st.sampled_from([0.0, 0.1, 0.3]))
def test_parts_in_time_follow_each_other_and_have_their_minimum(rows, minimum, test, validation):
    for size, (fit, validate, held_out) in (
        (minimum, split_series(rows, minimum, test, validation)),
        (0, split_tokens(rows, minimum, test, validation)),
    ):
        assert (fit.stop, validate.stop, held_out.stop) == (validate.start, held_out.start, rows)
        assert rows - held_out.start >= size
        assert abs((rows - held_out.start) - max(size, test * rows)) <= 1
        assert validate.stop - validate.start >= (minimum if validation else 0)
        assert validation or fit.stop == held_out.start


@given(
    st.lists(st.integers(3, 30), min_size=2, max_size=5),
    st.floats(0.05, 0.5),
    st.sampled_from([0.0, 0.1, 0.2]),
    st.integers(0, 99),
)
def test_a_split_has_each_row_once_and_each_label_in_each_part(counts, test, validation, seed):
    labels = [str(label) for label, count in enumerate(counts) for _ in range(count)]
    parts = split_by_label(labels, test, validation, seed)
    repeated = split_by_label(labels, test, validation, seed)
    assert np.array_equal(parts.test, repeated.test)
    assert sorted([*parts.fit, *parts.validation, *parts.test]) == list(range(len(labels)))
    for part in (parts.fit, parts.test, *([parts.validation] if validation else [])):
        assert {labels[row] for row in part} == set(labels)


def test_a_label_with_three_rows_is_in_every_part_whatever_the_fractions():
    labels = ["rare"] * 3 + ["often"] * 40
    for test, validation in ((0.5, 0.1), (0.9, 0.5), (0.99, 0.99)):
        parts = split_by_label(labels, test, validation, 0)
        for part in (parts.fit, parts.validation, parts.test):
            assert {labels[row] for row in part} == {"rare", "often"}
    half = split_by_label(["x"] * 100, 0.5, 0.5, 0)
    assert (len(half.test), len(half.validation), len(half.fit)) == (50, 25, 25)


def test_a_label_with_too_few_rows_is_refused_by_name():
    with pytest.raises(InputError, match="Label 'rare' has 2 row"):
        split_by_label(["a"] * 9 + ["rare"] * 2, 0.2, 0.1, 0)
