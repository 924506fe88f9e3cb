import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lstm_deploy.training.batches import Order, Padded, Place, Streams, Windows, loader

sizes = st.integers(1, 60)


@given(sizes, st.integers(1, 9), st.integers(1, 5), st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 3))
def test_every_example_is_seen_once_in_an_epoch_by_all_processes_together(count, batch_size, processes, seed, epoch):
    orders = [Order(count, batch_size, Place(rank, processes), seed=seed) for rank in range(processes)]
    for order in orders:
        order.set_epoch(epoch)
    items = [list(order) for order in orders]
    assert {len(each) for each in items} == {len(orders[0])}
    seen = [number for each in items for numbers, weight in each if weight for number in numbers.tolist()]
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_weighted_means_over_processes_are_the_mean_over_the_batch(count, batch_size, processes):
    values = torch.arange(count, dtype=torch.float64) ** 2
    single = Order(count, batch_size * processes, seed=1)
    shared = [Order(count, batch_size, Place(rank, processes), seed=1) for rank in range(processes)]
    for (whole, _), *parts in zip(single, *shared, strict=True):
        means = [values[numbers].mean() * weight for numbers, weight in parts]
        torch.testing.assert_close(sum(means) / processes, values[whole].mean())


@given(sizes, st.integers(2, 9), st.integers(1, 3))
def test_a_last_batch_that_is_too_small_is_left_out(count, batch_size, processes):
    orders = [list(Order(count, batch_size, Place(rank, processes), seed=0, least=2)) for rank in range(processes)]
    assert {len(each) for each in orders} == {len(Order(count, batch_size, Place(0, processes), least=2))}
    if count >= batch_size * processes:
        assert all(len(numbers) >= 2 for each in orders for numbers, _ in each)


def test_each_epoch_has_an_order_of_its_own_and_the_same_again():
    def drawn(epoch):
        order = Order(50, 8, seed=3)
        order.set_epoch(epoch)
        return torch.cat([numbers for numbers, _ in order]).tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_examples_of_like_length_come_together():
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0))
    batches = [numbers for numbers, _ in Order(640, 16, seed=0, lengths=lengths)]
    wasted = sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)
    assert wasted < 0.05 * int(lengths.sum())
    assert sorted(torch.cat(batches).tolist()) == list(range(640))


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_windows_hold_what_stands_in_the_series_and_what_follows(rows, window, horizon, stride, last):
    values = torch.stack([torch.arange(rows), 100 + torch.arange(rows)], 1)
    windows = Windows(values, window, columns=(1,), horizon=horizon, stride=stride, last=last)
    starts = [start for start in range(0, rows, stride) if start + window + horizon <= rows]
    assert len(windows) == len(starts)
    if starts:
        batch = windows[(torch.arange(len(starts)), 1.0)]
        for row, start in enumerate(starts):
            assert batch.inputs[0][row, :, 0].tolist() == list(range(start, start + window))
            wanted = batch.wanted[row] if last else batch.wanted[row, -1]
            assert wanted.tolist() == [100 + start + window + ahead for ahead in range(horizon)]


def test_windows_of_tokens_are_followed_by_tokens():
    batch = Windows(torch.arange(10), 3, stride=3)[(torch.tensor([0, 2]), 1.0)]
    assert batch.inputs[0].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch.wanted.tolist() == [[1, 2, 3], [7, 8, 9]]


@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
def test_streams_go_on_where_they_ended(length, streams, stretch, processes):
    tokens = torch.arange(length)
    for rank in range(processes):
        given = Streams(tokens, streams, stretch, Place(rank, processes))
        read = torch.cat([batch.inputs[0] for batch in given], 1)
        assert (read[:, 1:] - read[:, :-1] == 1).all()
        assert all(torch.equal(batch.wanted, batch.inputs[0] + 1) for batch in given)


def test_shorter_sequences_are_filled_and_their_lengths_told():
    padded = Padded([torch.tensor([3, 4, 5]), torch.tensor([6])], torch.tensor([1, 0]))
    (batch,) = loader(padded, Order(2, 5))
    x, lengths = batch.inputs
    assert x.tolist() == [[3, 4, 5], [6, 0, 0]]
    assert (lengths.tolist(), batch.wanted.tolist()) == ([3, 1], [1, 0])


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_a_process_without_examples_takes_part_with_weight_0(processes):
    parts = [Place(rank, processes).share(torch.arange(3)) for rank in range(processes)]
    assert np.isclose(sum(weight for _, weight in parts), processes)
    assert all(len(part) for part, _ in parts)
