"""Language models: a text becomes streams or windows of tokens, and the network predicts the token that follows."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lstm_deploy.contract import BYTES, LanguageModel, StatePolicy
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import WHOLE, Batches, Shard, TokenStreams, Windows, make_loader
from lstm_deploy.training.data.splits import Part, Split, split_tokens
from lstm_deploy.training.evaluation import Evaluation, bigram_nats, text_metrics
from lstm_deploy.training.learning_task import LearningTask, WeightedMean, digest, new_token_network
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe


class LanguageModelling(LearningTask):
    """Predict the next character or byte, with the state carried through the text or reset for each window."""

    task: LanguageModel

    recipe: Recipe
    state_policy: StatePolicy

    def __init__(self, text: str, recipe: Recipe) -> None:
        """Hold out the end of the text for the metrics; raises `InputError` for a text that is too short."""
        vocabulary = BYTES if recipe.unit == "byte" else tuple(sorted(set(text)))
        self.task = LanguageModel(vocabulary=vocabulary, unit="byte" if recipe.unit == "byte" else "character")
        self.recipe, self.state_policy = recipe, recipe.state
        self.tokens: Tensor = torch.tensor(self.task.encode(text))
        minimum = 2 if recipe.state == "carry" else recipe.window + 1
        self.split: Split[slice] = split_tokens(len(self.tokens), minimum, recipe.test, recipe.validation)
        if self.split.fit.stop - 1 < recipe.window or len(self.tokens) - self.split.test.start < minimum:
            raise InputError(
                f"{len(self.tokens)} {recipe.unit}s are too few for windows of {recipe.window}; use a smaller --window."
            )
        self.high: tuple[float, ...] = (len(vocabulary) - 1,)
        self.network: Network = new_token_network(recipe, len(vocabulary), len(vocabulary), recipe.embedding_size)
        self.data_digest: str = digest(text)

    def batches(self, part: Part, shard: Shard) -> Batches:
        recipe, tokens = self.recipe, self.tokens[getattr(self.split, part)]
        if recipe.state == "carry":
            return DataLoader(TokenStreams(tokens, recipe.batch_size, recipe.window, shard), batch_size=None)
        last = recipe.loss_on == "last" or recipe.pooling != "none"
        examples = Windows(tokens, recipe.window, stride=recipe.stride or recipe.window, last=last)
        seed = recipe.seed if part == "fit" else None
        return make_loader(examples, recipe.batch_size, shard, seed=seed)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        output = output[:, -1] if targets.dim() == 1 and output.dim() == 3 else output
        return nn.functional.cross_entropy(output.flatten(0, -2), targets.flatten())

    def evaluate(self) -> Evaluation:
        mean, state = WeightedMean(), None
        for batch in self.batches("test", WHOLE):
            loss, state = self.run_batch(batch, state)
            mean.add(float(loss), batch.targets.numel())
        fitted, held_out = self.tokens[self.split.fit].numpy(), self.tokens[self.split.test].numpy()
        naive = bigram_nats(fitted, held_out, len(self.task.vocabulary))
        return Evaluation(metrics=text_metrics(mean.total / mean.weight, naive, len(held_out), self.recipe.unit))
