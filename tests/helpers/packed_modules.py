"""Modules that pack padded rows, in the ways in which people write that: none knows of lstm-deploy."""

from functools import partial

import numpy as np
import torch
from kinds import layer
from torch import nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

pack = partial(pack_padded_sequence, batch_first=True, enforce_sorted=False)


def unpack(packed, **options):
    return pad_packed_sequence(packed, batch_first=True, **options)[0]


class Packed(nn.Module):
    """One LSTM, or layer of another kind, over padded rows of three features, and layers to use beside it."""

    kind, batch_first, bidirectional = "LSTM", True, False

    def __init__(self):
        super().__init__()
        self.lstm = layer(self.kind, 3, 4, batch_first=self.batch_first, bidirectional=self.bidirectional)
        self.again = layer(self.kind, 4, 4, batch_first=True)
        self.before, self.after = nn.Linear(3, 3), nn.Linear(4, 4)
        self.dropout, self.embedding = nn.Dropout(0.5), nn.Embedding(9, 3)
        self.norm = nn.BatchNorm1d(4)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths))[0])


class Sorted(Packed):
    """PyTorch's default, which demands rows sorted by falling length."""

    def forward(self, x, lengths):
        return unpack(self.lstm(pack_padded_sequence(x, lengths, batch_first=True))[0])


class SortedAndLast(Sorted):
    bidirectional = True

    def forward(self, x, lengths):
        _, (h, _) = self.lstm(pack_padded_sequence(x, lengths, True))
        return torch.cat([h[0], h[1]], -1)


class Filled(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths))[0], padding_value=-7.5)


class Largest(Packed):
    """Padding of -inf, so that it is never the largest."""

    bidirectional = True

    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths))[0], padding_value=float("-inf")).max(1)[0]


class TotalLength(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths))[0], padding_value=2.0, total_length=x.shape[1])


class TimeMajorAfterwards(Packed):
    def forward(self, x, lengths):
        return pad_packed_sequence(self.lstm(pack(x, lengths))[0], padding_value=2.0)


class PadsOnly(Packed):
    """What was packed is padded again without an LSTM between."""

    def forward(self, x, lengths):
        return unpack(pack(x, lengths), padding_value=5.0)[..., :1] + unpack(self.lstm(pack(x, lengths))[0])


class AsList(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, list(lengths)))[0])


class AsTuple(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, tuple(lengths)))[0])


class AsNumbers(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths.cpu().tolist()))[0])


class AsItems(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, [length.item() for length in lengths]))[0])


class AsArray(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack(x, lengths.cpu().numpy()))[0])


class AllFull(Packed):
    """Lengths that are made from sizes."""

    def forward(self, x, lengths):
        full = torch.full((x.shape[0],), x.shape[1])
        return unpack(self.lstm(pack(x, full))[0]) + unpack(self.lstm(pack(x, lengths))[0])


class ThroughLinear(Packed):
    """Layers between packing and the LSTM, and after it, on the data alone."""

    def forward(self, x, lengths):
        p = pack(x, lengths)
        data = self.dropout(self.before(p.data)) + p.data
        p = PackedSequence(data, p.batch_sizes, p.sorted_indices, p.unsorted_indices)
        out = self.lstm(p)[0]
        return unpack(out._replace(data=self.after(out.data)))


class ThroughLinearSorted(Packed):
    def forward(self, x, lengths):
        data, batch_sizes, *_ = pack_padded_sequence(x, lengths, True)
        return unpack(self.lstm(PackedSequence(self.before(data), batch_sizes))[0])


class Residual(Packed):
    """A stack of LSTMs, with a normalization of packed data and a way around one of them."""

    def forward(self, x, lengths):
        out = self.lstm(pack(x, lengths))[0]
        out = out._replace(data=self.norm(out.data))
        data = out.data + self.again(out)[0].data
        return unpack(PackedSequence(data, *out[1:]), padding_value=3.0)


class SumsDirections(Packed):
    """As the layers of speech recognizers do: time first, and the sum of both directions; beside it the last states."""

    batch_first, bidirectional = False, True

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x.transpose(0, 1), lengths.cpu(), enforce_sorted=False)
        y, final = self.lstm(packed)
        y, _ = pad_packed_sequence(y)
        y = y.view(y.shape[0], y.shape[1], 2, -1).sum(2).transpose(0, 1)
        return y, torch.cat([*(final[0] if isinstance(final, tuple) else final)], -1)


class PacksTokens(Packed):
    """Tokens are packed before they are embedded."""

    def forward(self, x, lengths):
        p = pack(x[..., 0].abs().long().clamp(max=8), lengths)
        return unpack(self.lstm(p._replace(data=self.embedding(p.data)))[0])


class RowsOfPacked(Packed):
    """The number of rows is read from what was packed."""

    def forward(self, x, lengths):
        p = pack(x, lengths)
        zeros = torch.zeros(1, p.batch_sizes[0], 4)
        out = self.lstm(p, (zeros, zeros))[0]
        assert isinstance(out, PackedSequence)
        return unpack(out.to(x.device))


class LastStep(Packed):
    """The last valid step of each row, by its number."""

    def forward(self, x, lengths):
        y = unpack(self.lstm(pack(x, lengths))[0])
        return y[torch.arange(y.shape[0]), lengths - 1]


class SortsByLength(Packed):
    """As before PyTorch could pack unsorted rows: sort, pack, unpack, sort back."""

    def forward(self, x, lengths):
        lengths, order = lengths.sort(descending=True)
        out, _ = self.lstm(pack_padded_sequence(x[order], lengths.cpu(), batch_first=True))
        return unpack(out)[order.argsort()]


class SortsByIndices(Packed):
    bidirectional = True

    def forward(self, x, lengths):
        order = torch.argsort(lengths, descending=True)
        out, (h, _) = self.lstm(pack_padded_sequence(x.index_select(0, order), lengths[order].tolist(), True))
        restored = torch.empty_like(order)
        restored[order] = torch.arange(x.shape[0])
        return unpack(out)[restored], h.index_select(1, restored).transpose(0, 1).flatten(1)


class CountsTokens(Packed):
    """Lengths from padding."""

    def forward(self, tokens):
        return unpack(self.lstm(pack(self.embedding(tokens), (tokens != 0).sum(1).cpu()))[0])


class CountsTokensTimeMajor(Packed):
    batch_first = False

    def forward(self, tokens):
        packed = pack_padded_sequence(self.embedding(tokens), (tokens != 1).sum(0), enforce_sorted=False)
        return pad_packed_sequence(self.lstm(packed)[0])[0]


class CountsMask(Packed):
    """Lengths from a mask of valid steps."""

    def forward(self, x, mask):
        return unpack(self.lstm(pack(x, mask.sum(1).long()))[0])


class CountsPadding(Packed):
    """A mask of padded steps, as attention layers take it."""

    def forward(self, x, mask):
        return unpack(self.lstm(pack(x, (~mask).sum(1)))[0])


class CountsRows(Packed):
    """Steps whose features are all zero are padding."""

    def forward(self, x):
        return unpack(self.lstm(pack(x, (x.abs().sum(-1) > 0).sum(1)))[0])


class KeepsSorted(Packed):
    """Rows are sorted, and stay so."""

    def forward(self, x, lengths):
        lengths, order = lengths.sort(descending=True)
        return unpack(self.lstm(pack_padded_sequence(x[order], lengths, True))[0])


class SortsAnArray(Packed):
    def forward(self, x, lengths):
        order = torch.from_numpy(np.argsort(-lengths.numpy()).copy())
        out, _ = self.lstm(pack_padded_sequence(x[order], lengths[order], True))
        return unpack(out)[order.argsort()]


class SortsNumbers(Packed):
    def forward(self, x, lengths):
        return unpack(self.lstm(pack_padded_sequence(x, sorted(lengths.tolist(), reverse=True), True))[0])


class MeanOfPacked(Packed):
    def forward(self, x, lengths):
        return self.lstm(pack(x, lengths))[0].data.mean(0)


class ReturnsPacked(Packed):
    def forward(self, x, lengths):
        return {"packed": self.lstm(pack(x, lengths))[0]}


class SumsBatchSizes(Packed):
    def forward(self, x, lengths):
        p = pack(x, lengths)
        return unpack(self.lstm(p)[0]) / torch.sum(p.batch_sizes)


class LoopsOverBatchSizes(Packed):
    def forward(self, x, lengths):
        p = pack(x, lengths)
        return unpack(self.lstm(p)[0]) / sum(p.batch_sizes)


class PacksRows(Packed):
    def forward(self, x, lengths):
        rows = [x[row, : lengths[row]] for row in range(x.shape[0])]
        return unpack(self.lstm(pack_sequence(rows, enforce_sorted=False))[0])


class UnpacksRows(Packed):
    def forward(self, x, lengths):
        return torch.stack([row.mean(0) for row in rnn.unpack_sequence(self.lstm(pack(x, lengths))[0])])
