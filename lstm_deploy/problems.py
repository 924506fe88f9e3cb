"""The problem that some material poses: the one place that knows all kinds of them."""

from lstm_deploy import classification, forecasting, language_modelling
from lstm_deploy.data import Series
from lstm_deploy.labelled import Labelled
from lstm_deploy.material import Material
from lstm_deploy.problem import Problem
from lstm_deploy.recipe import Recipe


def make_problem(material: Material, recipe: Recipe) -> Problem:
    """What is to be learned, with a fresh network for it."""
    match material.content:
        case Series() as series:
            return forecasting.make_problem(series, material.targets, recipe)
        case Labelled() as labelled:
            return classification.make_problem(labelled, material.vectors, recipe)
        case text:
            return language_modelling.make_problem(text, recipe)
