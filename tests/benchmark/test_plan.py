import pytest

from lstm_deploy.benchmark.plan import Plan, check_plan
from lstm_deploy.errors import InputError


def test_one_value_or_a_list_stands_where_there_can_be_several():
    plan = Plan(scenarios="stream", batches=4, threads=[1, 2], baselines=())
    assert (plan.scenarios, plan.batches, plan.threads, plan.baselines) == (("stream",), (4,), (1, 2), ())
    check_plan(plan)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batches": "4"}, r"batches\[0\] of the plan: Expected `int`, got `str`"),
        ({"rounds": 9.5}, "rounds of the plan: Expected `int`"),
        ({"roofline": "no"}, "roofline of the plan: Expected `bool`"),
        ({"providers": None}, r"providers\[0\] of the plan: Expected `str`, got `null`"),
        ({"scenarios": "strem"}, "'strem' is not a scenario; did you mean 'stream'"),
        ({"batches": 0}, "--batch must be 1 or more"),
    ],
)
def test_a_value_of_another_kind_is_named(wrong, message):
    with pytest.raises(InputError, match=message):
        check_plan(Plan(**wrong))


def test_what_is_no_plan_is_refused():
    with pytest.raises(InputError, match="A plan is needed"):
        check_plan({"rounds": 9})
