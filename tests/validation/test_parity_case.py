from validation_cases import SMALL

from lstm_deploy.lifting import sources
from lstm_deploy.validation.case_inputs import QUICK
from lstm_deploy.validation.parity_case import shortened
from lstm_deploy.validation.pytorch_reference import PyTorchReference
from lstm_deploy.validation.reference_cases import make_cases


def test_sizes_are_taken_for_each_column_and_each_unit(reference):
    case = make_cases(reference, SMALL)[1]
    assert case.sizes["y"].shape == (1, 1, 5)
    assert case.sizes["h_out"].shape == (2, 1, 5)
    assert (case.sizes["h_out"] >= 1).all()
    assert (case.sizes["y"] >= 0.05).all()


def test_shortened_cases_carry_the_state_over_fewer_steps_and_stay_the_same_otherwise(forecaster):
    lifted = sources.load(sources.Origin(path=forecaster)).lifted
    cases = make_cases(PyTorchReference(lifted), QUICK._replace(steps=100))
    short = shortened(cases, 20)
    for before, after in zip(cases, short, strict=True):
        if before.check != "drift":
            assert after is before
            continue
        assert (len(before.calls), len(after.calls), len(after.expected)) == (100, 20, 20)
        assert lifted.signature.state_outputs[0].name in after.expected[-1]
