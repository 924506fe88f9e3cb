import pytest
import torch
from msgspec.structs import replace
from small_models import ignore, reviews, small

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline
from lstm_deploy.training.batches import WHOLE
from lstm_deploy.training.classification import TextClassification
from lstm_deploy.training.data.labelled_texts import LabelledTexts
from lstm_deploy.training.data.word_vectors import WordVectors
from lstm_deploy.training.training_data import TrainingData

VECTORS = WordVectors(
    index={"great": 0, "fine": 1, "poor": 2, "awful": 3},
    values=torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.9, 0.1]]).numpy(),
)


def train(data=None, vectors=None, **changes):
    return pipeline.train(
        replace(data or reviews(120), vectors=vectors),
        small("classify", **{"epochs": 8, "learning_rate": 0.05, "batch_size": 16, "least_count": 1, **changes}),
        ignore,
    )


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"pooling": "attention"},
        {"pooling": "mean", "bidirectional": False},
        {"pooling": "last"},
        {"unit": "word", "embedding_size": 0},
        {"unit": "character"},
    ],
)
def test_labels_are_learned_in_every_form(form):
    trained = train(**form)
    assert trained.evaluation.metrics["accuracy"] > 0.9
    assert trained.evaluation.confusion.sum() == trained.evaluation.metrics["texts"] == 24
    assert trained.spec.task.labels == ("bad", "good")


@pytest.mark.parametrize("freeze", [True, None])
def test_the_embedding_starts_from_the_vectors_and_keeps_them_if_they_are_frozen(freeze):
    task = TextClassification(reviews().content, VECTORS, small("classify", freeze_vectors=freeze, least_count=1))
    index = task.task.index
    initial = task.network.embedding.weight[index["awful"]].tolist()
    assert initial == pytest.approx([-0.9, 0.1])
    assert ("was" in index) != bool(freeze)  # a word without a vector cannot be learned
    assert "4 of" in task.remarks[0]
    trained = train(vectors=VECTORS, freeze_vectors=freeze)
    final = trained.network.embedding.weight[trained.spec.task.index["awful"]].tolist()
    assert (final == pytest.approx([-0.9, 0.1])) == bool(freeze)
    assert trained.evaluation.metrics["accuracy"] > 0.9


def test_texts_are_cut_to_the_window():
    task = TextClassification(reviews().content, None, small("classify", window=2))
    assert max(int(batch.inputs[1].max()) for batch in task.batches("fit", WHOLE)) == 2


def test_one_label_and_foreign_vectors_are_refused():
    with pytest.raises(InputError, match="All texts have the label 'a'"):
        train(TrainingData(content=LabelledTexts(texts=("x",) * 9, labels=("a",) * 9)))
    with pytest.raises(InputError, match="none of the words"):
        train(vectors=WordVectors(index={"ja": 0}, values=VECTORS.values[:1]))
