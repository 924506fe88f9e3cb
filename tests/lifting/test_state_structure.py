import pytest
import torch
from torch import nn

from lstm_deploy.lifting.state_structure import Leaf, StateList, StatePair, filled, leaves_of, structure_of, written


def test_a_pair_is_read_as_a_tuple_a_mapping_and_an_object():
    pair = StatePair((torch.zeros(1), torch.ones(1)))
    h, c = pair
    assert (pair[0] is h, pair["hidden"] is h, pair.cell is c, pair.c_0 is c) == (True,) * 4
    assert "h" in pair
    assert "memory" not in pair
    assert not hasattr(pair, "chunk"), "a tuple has no methods of a tensor"
    assert len(nn.LSTM(3, 1)(torch.zeros(2, 1, 3), StatePair((torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))))) == 2


def test_a_list_of_states_takes_names_in_the_order_of_their_use():
    states = StateList(["actor", "critic"])
    assert (states.pi, states["vf"], states.pi, states[1]) == ("actor", "critic", "actor", "critic")
    with pytest.raises(KeyError):
        states["third"]
    assert not hasattr(states, "shape")


def test_the_axis_of_rows_is_the_one_that_varies_with_them():
    def state(rows):
        return {"h": torch.zeros(2, rows, 4), "list": [torch.zeros(rows, 3), None]}

    structure = structure_of(state(2), state(5), 2)
    assert structure == {"h": Leaf((2, "batch", 4)), "list": [Leaf(("batch", 3)), None]}
    assert [path for path, _ in leaves_of(structure)] == [("h",), ("list", 0)]
    h, other = torch.ones(2, 7, 4), torch.ones(7, 3)
    rebuilt = filled(structure, iter([h, other]))
    assert rebuilt["h"] is h
    assert rebuilt["list"] == [other, None]


@pytest.mark.parametrize(
    ("value", "wider"),
    [
        (torch.zeros(2, 2), torch.zeros(5, 5)),
        (torch.zeros(2, 3), torch.zeros(2, 5, 3)),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)),
        ([torch.zeros(2)], [torch.zeros(5), torch.zeros(5)]),
        (1, 2),
    ],
    ids=["two axes", "other rank", "numbers", "other length", "no tensor"],
)
def test_what_cannot_be_a_state_has_no_structure(value, wider):
    with pytest.raises(ValueError, match=r"."):
        structure_of(value, wider, 2)


def test_places_are_written_as_in_the_authors_code():
    assert written("state", (0, "h")) == 'state[0]["h"]'
