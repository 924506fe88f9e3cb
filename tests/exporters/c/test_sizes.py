import re

from hypothesis import given, strategies as st

from lstm_deploy.exporters.c.sizes import ONE, ZERO, Size, fit, product

SIZES = st.lists(st.integers(-5, 9), max_size=3).map(lambda numbers: Size.of(*numbers))


@given(SIZES, SIZES, st.integers(1, 50))
def test_arithmetic_is_that_of_the_values(a, b, steps):
    assert (a + b).at(steps) == a.at(steps) + b.at(steps)
    assert (a - b).at(steps) == a.at(steps) - b.at(steps)
    assert (a * b).at(steps) == a.at(steps) * b.at(steps)
    assert product([a, b, ONE]).at(steps) == a.at(steps) * b.at(steps)
    assert (a.number is None) == (len(a.coefficients) > 1)


@given(SIZES, st.integers(1, 50))
def test_the_text_is_the_value_in_c(size, steps):
    text = str(size).strip()
    assert re.fullmatch(r"[\d\s()*+\-steps]+", text)
    assert eval(text, {"steps": steps}) == size.at(steps)


@given(SIZES, st.integers(1, 5))
def test_a_polynomial_is_found_from_its_values(size, first):
    steps = [first + number for number in range(4)]
    assert fit(steps, [size.at(number) for number in steps]) == size


def test_what_is_no_polynomial_is_not_found():
    assert fit([1, 2, 3, 4], [1, 1, 2, 2]) is None
    assert fit([1, 2, 3, 4], [0.5, 1, 1.5, 2]) is None
    assert ZERO.at(3) == 0
