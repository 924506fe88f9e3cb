import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from lstm_deploy.training.batches import PaddedSequences, Shard, ShardedBatchSampler, TokenStreams, Windows, make_loader

sizes = st.integers(1, 60)


@given(sizes, st.integers(1, 9), st.integers(1, 5), st.one_of(st.none(), st.integers(0, 9)), st.integers(0, 3))
def test_every_example_is_seen_once_in_an_epoch_by_all_processes_together(count, batch_size, processes, seed, epoch):
    orders = [ShardedBatchSampler(count, batch_size, Shard(rank, processes), seed=seed) for rank in range(processes)]
    for order in orders:
        order.set_epoch(epoch)
    items = [list(order) for order in orders]
    assert {len(order) for order in items} == {len(orders[0])}
    seen = [number for order in items for numbers, weight in order if weight for number in numbers.tolist()]
    assert sorted(seen) == list(range(count))


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_weighted_means_over_processes_are_the_mean_over_the_batch(count, batch_size, processes):
    values = torch.arange(count, dtype=torch.float64) ** 2
    single = ShardedBatchSampler(count, batch_size * processes, seed=1)
    shared = [ShardedBatchSampler(count, batch_size, Shard(rank, processes), seed=1) for rank in range(processes)]
    for (whole, _), *parts in zip(single, *shared, strict=True):
        means = [values[numbers].mean() * weight for numbers, weight in parts]
        torch.testing.assert_close(sum(means) / processes, values[whole].mean())


@given(sizes, st.integers(2, 9), st.integers(1, 3))
def test_a_last_batch_that_is_too_small_is_dropped(count, batch_size, processes):
    orders = [
        list(ShardedBatchSampler(count, batch_size, Shard(rank, processes), seed=0, minimum=2))
        for rank in range(processes)
    ]
    assert {len(order) for order in orders} == {
        len(ShardedBatchSampler(count, batch_size, Shard(0, processes), minimum=2))
    }
    if count >= batch_size * processes:
        assert all(len(numbers) >= 2 for order in orders for numbers, _ in order)


def test_each_epoch_has_its_own_reproducible_order():
    def drawn(epoch):
        order = ShardedBatchSampler(50, 8, seed=3)
        order.set_epoch(epoch)
        return torch.cat([numbers for numbers, _ in order]).tolist()

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_examples_of_similar_length_share_a_batch():
    lengths = torch.randint(1, 100, (640,), generator=torch.Generator().manual_seed(0))
    batches = [numbers for numbers, _ in ShardedBatchSampler(640, 16, seed=0, lengths=lengths)]
    wasted = sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)
    assert wasted < 0.05 * int(lengths.sum())
    assert sorted(torch.cat(batches).tolist()) == list(range(640))


@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_windows_hold_rows_of_the_series_and_the_rows_that_follow(rows, window, horizon, stride, last):
    values = torch.stack([torch.arange(rows), 100 + torch.arange(rows)], 1)
    windows = Windows(values, window, columns=(1,), horizon=horizon, stride=stride, last=last)
    starts = [start for start in range(0, rows, stride) if start + window + horizon <= rows]
    assert len(windows) == len(starts)
    if starts:
        batch = windows[(torch.arange(len(starts)), 1.0)]
        for row, start in enumerate(starts):
            assert batch.inputs[0][row, :, 0].tolist() == list(range(start, start + window))
            targets = batch.targets[row] if last else batch.targets[row, -1]
            assert targets.tolist() == [100 + start + window + ahead for ahead in range(horizon)]


def test_windows_of_tokens_are_followed_by_tokens():
    batch = Windows(torch.arange(10), 3, stride=3)[(torch.tensor([0, 2]), 1.0)]
    assert batch.inputs[0].tolist() == [[0, 1, 2], [6, 7, 8]]
    assert batch.targets.tolist() == [[1, 2, 3], [7, 8, 9]]


@given(st.integers(2, 200), st.integers(1, 9), st.integers(1, 20), st.integers(1, 3))
def test_streams_continue_where_they_ended(length, streams, steps, processes):
    tokens = torch.arange(length)
    for rank in range(processes):
        given = TokenStreams(tokens, streams, steps, Shard(rank, processes))
        read = torch.cat([batch.inputs[0] for batch in given], 1)
        assert (read[:, 1:] - read[:, :-1] == 1).all()
        assert all(torch.equal(batch.targets, batch.inputs[0] + 1) for batch in given)


def test_shorter_sequences_are_padded_and_their_lengths_given():
    padded = PaddedSequences([torch.tensor([3, 4, 5]), torch.tensor([6])], torch.tensor([1, 0]))
    (batch,) = make_loader(padded, 5)
    x, lengths = batch.inputs
    assert x.tolist() == [[3, 4, 5], [6, 0, 0]]
    assert (lengths.tolist(), batch.targets.tolist()) == ([3, 1], [1, 0])


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_a_process_without_examples_takes_part_with_weight_0(processes):
    parts = [Shard(rank, processes).part_of(torch.arange(3)) for rank in range(processes)]
    assert np.isclose(sum(weight for _, weight in parts), processes)
    assert all(len(part) for part, _ in parts)
