import pytest

from lstm_deploy.benchmark.plot_layout import time_text


@pytest.mark.parametrize(("us", "said"), [(0.05, "50 ns"), (999.6, "1 ms"), (12.34, "12.3 µs"), (2.5e6, "2.5 s")])
def test_times_have_units_that_leave_few_digits(us, said):
    assert time_text(us) == said
