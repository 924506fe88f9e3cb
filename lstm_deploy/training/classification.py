"""Text classifiers: labelled texts become padded batches of tokens, and the network predicts the label of each."""

import torch
from torch import Tensor, nn

from lstm_deploy.contract import Array, Classify
from lstm_deploy.errors import InputError
from lstm_deploy.training.batches import WHOLE, Batches, PaddedSequences, Shard, make_loader
from lstm_deploy.training.data.labelled_texts import LabelledTexts
from lstm_deploy.training.data.splits import Part, Split, split_by_label
from lstm_deploy.training.data.vocabularies import UNKNOWN, build_vocabulary
from lstm_deploy.training.data.word_vectors import WordVectors, initial_embedding
from lstm_deploy.training.evaluation import Evaluation, classification_metrics, confusion_matrix
from lstm_deploy.training.learning_task import LearningTask, digest, new_token_network
from lstm_deploy.training.network import Network
from lstm_deploy.training.recipe import Recipe


class TextClassification(LearningTask):
    """Predict the label of a text; rows are held out at random, the same fraction of each label."""

    task: Classify

    network: Network

    def __init__(self, data: LabelledTexts, vectors: WordVectors | None, recipe: Recipe) -> None:
        """The vocabulary comes from the texts to fit; with frozen vectors, words without one are left out of it.

        Raises `InputError` for fewer than two labels, too few texts, or vectors that have none of the words.
        """
        labels = tuple(sorted(set(data.labels)))
        if len(labels) < 2:
            raise InputError(f"All texts have the label {labels[0]!r}; add texts with other labels.")
        self.recipe = recipe
        self.split: Split[Array] = split_by_label(data.labels, recipe.test, recipe.validation, recipe.seed)
        unit = recipe.unit
        assert unit != "byte"  # refused by `check_recipe`
        texts = [data.texts[row] for row in self.split.fit]
        vocabulary = build_vocabulary(texts, unit, recipe.vocabulary_size, recipe.least_count)
        matrix, width = None, recipe.embedding_size
        if vectors:
            if not (common := [entry for entry in vocabulary if entry in vectors.index and entry != UNKNOWN]):
                raise InputError("The vectors have none of the words of the texts; check their language and case.")
            if recipe.freeze_vectors:
                vocabulary = (UNKNOWN, *common)
            matrix, with_vector = initial_embedding(vocabulary, vectors, recipe.seed)
            width = matrix.shape[1]
            self.remarks: tuple[str, ...] = (
                f"{with_vector:,} of {len(vocabulary):,} entries of the vocabulary have a vector.",
            )
        self.task = Classify(labels=labels, vocabulary=vocabulary, unit=unit, unknown=0)
        self.high: tuple[float, ...] = (len(vocabulary) - 1,)
        self.network = new_token_network(recipe, len(vocabulary), len(labels), width)
        if matrix is not None:
            self.network.embedding.weight.data.copy_(torch.from_numpy(matrix))
            self.network.embedding.weight.requires_grad = not recipe.freeze_vectors
        self.sequences: list[Tensor] = [torch.tensor(self.task.encode(text)[: recipe.window]) for text in data.texts]
        self.classes: Tensor = torch.tensor([labels.index(label) for label in data.labels])
        self.data_digest: str = digest(data.texts, data.labels, vocabulary, matrix)

    def batches(self, part: Part, shard: Shard) -> Batches:
        rows = getattr(self.split, part)
        examples = PaddedSequences([self.sequences[row] for row in rows], self.classes[torch.from_numpy(rows)])
        seed, lengths = (self.recipe.seed, examples.lengths) if part == "fit" else (None, None)
        return make_loader(examples, self.recipe.batch_size, shard, seed=seed, lengths=lengths)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, targets)

    def evaluate(self) -> Evaluation:
        predicted = torch.cat([self.network(*b.inputs)[0].argmax(-1) for b in self.batches("test", WHOLE)])
        truth = self.classes.numpy()[self.split.test]
        confusion = confusion_matrix(truth, predicted.numpy(), len(self.task.labels))
        return Evaluation(metrics=classification_metrics(confusion), confusion=confusion)
