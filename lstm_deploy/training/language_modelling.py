"""Language models: a text becomes tokens, streams or windows of them, and the cross-entropy of what follows."""

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lstm_deploy.contract import BYTES, LanguageModel
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import Batch, Order, Place, Streams, Windows, loader
from lstm_deploy.training.evaluation import Evaluation, bigram_nats, text_metrics
from lstm_deploy.training.learning_task import Lesson, Problem, fingerprint, network_of, tokens_enter
from lstm_deploy.training.loop import mean_loss
from lstm_deploy.training.recipe import Recipe


def make_problem(text: str, recipe: Recipe) -> Problem:
    """Predict the next character or byte, with the state carried through the text or anew in each window.

    The end of the text is held out for the metrics, and what stands before it chooses the best epoch. Raises
    `InputError` for a text that is too short.
    """
    vocabulary = BYTES if recipe.unit == "byte" else tuple(sorted(set(text)))
    task = LanguageModel(vocabulary=vocabulary, unit="byte" if recipe.unit == "byte" else "character")
    tokens = torch.tensor(task.encode(text))
    test_start = round((1 - recipe.test) * len(tokens))
    window, pooled = recipe.window, recipe.pooling != "none"
    least = 2 if recipe.state == "carry" else window + 1
    fit_end = test_start - (max(least, round(recipe.validation * test_start)) if recipe.validation else 0)
    if fit_end - 1 < window or len(tokens) - test_start < least:
        raise InputError(
            f"A text of {len(tokens)} {recipe.unit}s is too short for windows of {window}; "
            "give a longer text or a smaller --window."
        )
    tokens_in = tokens_enter(len(vocabulary), recipe.embedding_size)
    network = network_of(recipe, **tokens_in, output_size=len(vocabulary))
    last = recipe.loss_on == "last" or pooled

    def batches(begin: int, end: int, place: Place, *, shuffle: bool = False) -> "DataLoader[Batch]":
        if recipe.state == "carry":
            return loader(Streams(tokens[begin:end], recipe.batch_size, window, place))
        examples = Windows(tokens[begin:end], window, stride=recipe.stride or window, last=last)
        seed = recipe.seed if shuffle else None
        return loader(examples, Order(len(examples), recipe.batch_size, place, seed=seed))

    def loss(output: Tensor, wanted: Tensor) -> Tensor:
        output = output[:, -1] if wanted.dim() == 1 and output.dim() == 3 else output
        return nn.functional.cross_entropy(output.flatten(0, -2), wanted.flatten())

    lesson = Lesson(
        network=network,
        loss=loss,
        train=lambda place: batches(0, fit_end, place, shuffle=True),
        validate=(lambda place: batches(fit_end, test_start, place)) if recipe.validation else None,
        carry=recipe.state == "carry",
        data=fingerprint(text),
    )

    def evaluate() -> Evaluation:
        nats = mean_loss(lesson, batches(test_start, len(tokens), Place()))
        naive = bigram_nats(tokens[:fit_end].numpy(), tokens[test_start:].numpy(), len(vocabulary))
        return Evaluation(metrics=text_metrics(nats, naive, len(tokens) - test_start, recipe.unit))

    return Problem(
        lesson=lesson,
        task=task,
        state_policy=recipe.state,
        low=(0,),
        high=(len(vocabulary) - 1,),
        evaluate=evaluate,
    )
