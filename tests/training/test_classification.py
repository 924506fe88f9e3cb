import pytest
import torch
from msgspec.structs import replace
from small_models import ignore, small
from test_training import reviews

from lstm_deploy.errors import InputError
from lstm_deploy.training import pipeline
from lstm_deploy.training.classification import make_problem
from lstm_deploy.training.data.labelled_texts import Labelled, Vectors
from lstm_deploy.training.training_data import Material

VECTORS = Vectors(
    index={"great": 0, "fine": 1, "poor": 2, "awful": 3},
    values=torch.tensor([[1.0, 0], [0.9, 0.1], [-1, 0], [-0.9, 0.1]]).numpy(),
)


def train(given=None, vectors=None, **changes):
    material = given or reviews(120)
    return pipeline.train(
        replace(material, vectors=vectors),
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
    found = train(**form)
    assert found.evaluation.metrics["accuracy"] > 0.9
    assert found.evaluation.confusion.sum() == found.evaluation.metrics["texts"] == 24
    assert found.spec.task.labels == ("bad", "good")


@pytest.mark.parametrize("freeze", [True, None])
def test_vectors_are_where_the_embedding_begins_and_stay_where_they_are_frozen(freeze):
    problem = make_problem(reviews().content, VECTORS, small("classify", freeze_vectors=freeze, least_count=1))
    index = problem.task.index
    begun = problem.lesson.network.embedding.weight[index["awful"]].tolist()
    assert begun == pytest.approx([-0.9, 0.1])
    assert ("was" in index) != bool(freeze)  # a word without a vector cannot be learned
    assert "4 of" in problem.remarks[0]
    trained = train(vectors=VECTORS, freeze_vectors=freeze)
    ended = trained.network.embedding.weight[trained.spec.task.index["awful"]].tolist()
    assert (ended == pytest.approx([-0.9, 0.1])) == bool(freeze)
    assert trained.evaluation.metrics["accuracy"] > 0.9


def test_texts_are_cut_to_the_window():
    problem = make_problem(reviews().content, None, small("classify", window=2))
    from lstm_deploy.training.batches import Place

    assert max(int(batch.inputs[1].max()) for batch in problem.lesson.train(Place())) == 2


def test_one_label_and_foreign_vectors_are_refused():
    with pytest.raises(InputError, match="All texts have the label 'a'"):
        train(Material(content=Labelled(texts=("x",) * 9, labels=("a",) * 9)))
    with pytest.raises(InputError, match="none of the words"):
        train(vectors=Vectors(index={"ja": 0}, values=VECTORS.values[:1]))
