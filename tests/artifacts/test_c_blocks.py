import numpy as np
import pytest

from lstm_deploy.artifacts.c_blocks import (
    LEVELS,
    pack_dense_int8,
    pack_lstm,
    pack_lstm_int8,
    summed_biases,
    unpack_dense_int8,
    unpack_lstm,
    unpack_lstm_int8,
)


def layer(inputs, hidden):
    rng = np.random.default_rng(0)
    shapes = (4 * hidden, inputs), (4 * hidden, hidden), (8 * hidden,)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 16), (5, 37)])
def test_an_lstm_layer_is_unpacked_as_it_was_packed(inputs, hidden):
    w, r, bias = layer(inputs, hidden)
    unpacked = unpack_lstm(pack_lstm(w, r, bias), inputs, hidden)
    np.testing.assert_array_equal(unpacked["w"], w)
    np.testing.assert_array_equal(unpacked["r"], r)
    np.testing.assert_array_equal(unpacked["b"], summed_biases(bias)[: 4 * hidden].astype(np.float32))


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (3, 16), (5, 37)])
def test_an_int8_layer_is_unpacked_to_within_half_a_step(inputs, hidden):
    w, r, bias = layer(inputs, hidden)
    packed = pack_lstm_int8(w, r, bias)
    unpacked = unpack_lstm_int8(packed.bytes, packed.numbers, inputs, hidden)
    for name, weight in (("w", w), ("r", r)):
        step = unpacked[f"{name}_step"]
        np.testing.assert_allclose(step[:, 0], np.abs(weight).max(axis=1) / LEVELS, rtol=1e-6)
        assert (np.abs(unpacked[name] - weight) <= 0.501 * step).all()


@pytest.mark.parametrize("outputs", [1, 64, 70])
def test_an_int8_matrix_is_unpacked_to_within_half_a_step(outputs):
    rows = np.random.default_rng(0).standard_normal((outputs, 6)).astype(np.float32)
    packed = pack_dense_int8(rows, None)
    matrix, step = unpack_dense_int8(packed.bytes, packed.numbers, 6, outputs)
    assert (np.abs(matrix - rows) <= 0.501 * step).all()
