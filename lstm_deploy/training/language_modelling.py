"""Language models: a text becomes streams or windows of tokens, and the network predicts the token that follows."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lstm_deploy.contract import BYTES, LanguageModel
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import (
    WHOLE,
    Batch,
    Shard,
    ShardedBatchSampler,
    TokenStreams,
    Windows,
    make_loader,
)
from lstm_deploy.training.data.splits import split_text
from lstm_deploy.training.evaluation import Evaluation, bigram_nats, text_metrics
from lstm_deploy.training.learning_task import LearningTask, digest, new_token_network
from lstm_deploy.training.recipe import Recipe


class LanguageModelling(LearningTask):
    """Predict the next character or byte, with the state carried through the text or reset for each window."""

    task: LanguageModel

    def __init__(self, text: str, recipe: Recipe) -> None:
        """Hold out the end of the text for the metrics; raises `InputError` for a text that is too short."""
        vocabulary = BYTES if recipe.unit == "byte" else tuple(sorted(set(text)))
        self.task = LanguageModel(vocabulary=vocabulary, unit="byte" if recipe.unit == "byte" else "character")
        self.recipe, self.state_policy = recipe, recipe.state
        self.tokens = torch.tensor(self.task.encode(text))
        minimum = 2 if recipe.state == "carry" else recipe.window + 1
        self.split = split_text(len(self.tokens), minimum, recipe.test, recipe.validation)
        if self.split.fit_end - 1 < recipe.window or len(self.tokens) - self.split.test_start < minimum:
            raise InputError(
                f"A text of {len(self.tokens)} {recipe.unit}s is too short for windows of {recipe.window}; "
                "give a longer text or a smaller --window."
            )
        self.high = (len(vocabulary) - 1,)
        self.network = new_token_network(recipe, len(vocabulary), len(vocabulary), recipe.embedding_size)
        self.data_digest = digest(text)

    def train_batches(self, shard: Shard) -> "DataLoader[Batch]":
        return self._batches(0, self.split.fit_end, shard, seed=self.recipe.seed)

    def validation_batches(self, shard: Shard) -> "DataLoader[Batch] | None":
        return self._batches(*self.split, shard) if self.recipe.validation else None

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        output = output[:, -1] if targets.dim() == 1 and output.dim() == 3 else output
        return nn.functional.cross_entropy(output.flatten(0, -2), targets.flatten())

    def evaluate(self) -> Evaluation:
        fit_end, test_start = self.split
        nats = self.mean_loss(self._batches(test_start, len(self.tokens), WHOLE))
        fitted, held_out = self.tokens[:fit_end].numpy(), self.tokens[test_start:].numpy()
        naive = bigram_nats(fitted, held_out, len(self.task.vocabulary))
        return Evaluation(metrics=text_metrics(nats, naive, len(held_out), self.recipe.unit))

    def _batches(self, begin: int, end: int, shard: Shard, *, seed: int | None = None) -> "DataLoader[Batch]":
        recipe, tokens = self.recipe, self.tokens[begin:end]
        if recipe.state == "carry":
            return make_loader(TokenStreams(tokens, recipe.batch_size, recipe.window, shard))
        last = recipe.loss_on == "last" or recipe.pooling != "none"
        examples = Windows(tokens, recipe.window, stride=recipe.stride or recipe.window, last=last)
        return make_loader(examples, ShardedBatchSampler(len(examples), recipe.batch_size, shard, seed=seed))
