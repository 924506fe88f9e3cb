import numpy as np
import pytest

from lstm_deploy.artifacts.c_blocks import (
    LEVELS,
    pack_dense_int8,
    pack_layer,
    pack_layer_int8,
    summed_biases,
    unpack_dense_int8,
    unpack_layer,
    unpack_layer_int8,
)
from lstm_deploy.contract.cells import CELLS, GRU, LSTM

SIZES = [(1, 1), (3, 16), (5, 37)]


def layer(cell, inputs, hidden):
    rng, rows = np.random.default_rng(0), len(cell.onnx_gates) * hidden
    return [rng.standard_normal(shape).astype(np.float32) for shape in ((rows, inputs), (rows, hidden), (2 * rows,))]


@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_layer_is_unpacked_as_it_was_packed(cell, inputs, hidden):
    w, r, bias = layer(cell, inputs, hidden)
    unpacked = unpack_layer(cell, pack_layer(cell, w, r, bias), inputs, hidden)
    np.testing.assert_array_equal(unpacked["w"], w)
    np.testing.assert_array_equal(unpacked["r"], r)
    np.testing.assert_array_equal(unpacked["b"], summed_biases(bias, cell).astype(np.float32))


@pytest.mark.parametrize(("inputs", "hidden"), SIZES)
@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_an_int8_layer_is_unpacked_to_within_half_a_step(cell, inputs, hidden):
    w, r, bias = layer(cell, inputs, hidden)
    packed = pack_layer_int8(cell, w, r, bias)
    unpacked = unpack_layer_int8(cell, packed.bytes, packed.numbers, inputs, hidden)
    np.testing.assert_array_equal(unpacked["b"], summed_biases(bias, cell).astype(np.float32))
    for name, weight in (("w", w), ("r", r)):
        step = unpacked[f"{name}_step"]
        np.testing.assert_allclose(step[:, 0], np.abs(weight).max(axis=1) / LEVELS, rtol=1e-6)
        assert (np.abs(unpacked[name] - weight) <= 0.501 * step).all()


def test_biases_are_summed_where_only_their_sum_counts():
    np.testing.assert_array_equal(summed_biases(np.arange(8), LSTM), [4, 6, 8, 10, 0, 0, 0, 0])
    np.testing.assert_array_equal(summed_biases(np.arange(6), GRU), [3, 5, 2, 0, 0, 5])


@pytest.mark.parametrize("outputs", [1, 64, 70])
def test_an_int8_matrix_is_unpacked_to_within_half_a_step(outputs):
    rows = np.random.default_rng(0).standard_normal((outputs, 6)).astype(np.float32)
    packed = pack_dense_int8(rows, None)
    matrix, step = unpack_dense_int8(packed.bytes, packed.numbers, 6, outputs)
    assert (np.abs(matrix - rows) <= 0.501 * step).all()
