"""Classifiers: labelled texts become padded batches of tokens, and the network tells a label for each."""

import torch
from torch import nn
from torch.utils.data import DataLoader

from lstm_deploy.contract import Array, Classify
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import Batch, Order, Padded, Place, loader
from lstm_deploy.training.data.labelled_texts import UNKNOWN, Labelled, Vectors, embed, split, vocabulary_of
from lstm_deploy.training.evaluation import Evaluation, classification_metrics, confusion_of
from lstm_deploy.training.learning_task import Lesson, Problem, fingerprint, network_of, tokens_enter
from lstm_deploy.training.recipe import Recipe


def make_problem(given: Labelled, vectors: Vectors | None, recipe: Recipe) -> Problem:
    """Tell the label of a text; rows are held out at random, the same part of each label.

    The vocabulary is that of the texts that are learned from; of frozen vectors, what these have. Raises `InputError`
    for fewer than two labels, too few texts, or vectors that have none of the words.
    """
    labels = tuple(sorted(set(given.labels)))
    if len(labels) < 2:
        raise InputError(f"All texts have the label {labels[0]!r}, so there is nothing to tell; give others, too.")
    parts = split(given.labels, recipe.test, recipe.validation, recipe.seed)
    unit = recipe.unit
    assert unit != "byte"  # a recipe refuses it
    fitted = [given.texts[row] for row in parts.fit]
    entries = vocabulary_of(fitted, unit, recipe.vocabulary_size, recipe.least_count)
    matrix, remarks = None, list[str]()
    if vectors:
        if not (common := [entry for entry in entries if entry in vectors.index and entry != UNKNOWN]):
            raise InputError("The vectors have none of the words of the texts; check their language and case.")
        if recipe.freeze_vectors:
            entries = (UNKNOWN, *common)
        matrix, found = embed(entries, vectors, recipe.seed)
        remarks.append(f"{found:,} of {len(entries):,} entries of the vocabulary have a vector.")
    task = Classify(labels=labels, vocabulary=entries, unit=unit, unknown=0)
    width = recipe.embedding_size if matrix is None else matrix.shape[1]
    network = network_of(recipe, **tokens_enter(len(entries), width), output_size=len(labels))
    if matrix is not None:
        network.embedding.weight.data.copy_(torch.from_numpy(matrix))
        network.embedding.weight.requires_grad = not recipe.freeze_vectors
    sequences = [torch.tensor(task.encode(text)[: recipe.window]) for text in given.texts]
    classes = torch.tensor([labels.index(label) for label in given.labels])

    def batches(rows: Array, place: Place, *, shuffle: bool = False) -> "DataLoader[Batch]":
        examples = Padded([sequences[row] for row in rows], classes[torch.from_numpy(rows)])
        seed, lengths = (recipe.seed, examples.lengths) if shuffle else (None, None)
        return loader(examples, Order(len(examples), recipe.batch_size, place, seed=seed, lengths=lengths))

    def evaluate() -> Evaluation:
        with torch.no_grad():
            told = torch.cat([network(*batch.inputs)[0].argmax(-1) for batch in batches(parts.test, Place())])
        confusion = confusion_of(classes.numpy()[parts.test], told.numpy(), len(labels))
        return Evaluation(metrics=classification_metrics(confusion), confusion=confusion)

    return Problem(
        lesson=Lesson(
            network=network,
            loss=nn.functional.cross_entropy,
            train=lambda place: batches(parts.fit, place, shuffle=True),
            validate=(lambda place: batches(parts.validate, place)) if recipe.validation else None,
            data=fingerprint(given.texts, given.labels, entries, matrix),
        ),
        task=task,
        state_policy="reset",
        low=(0,),
        high=(len(entries) - 1,),
        evaluate=evaluate,
        remarks=tuple(remarks),
    )
