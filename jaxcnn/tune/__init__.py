"""The search for settings: many short trainings, of which the promising ones go on."""

from jaxcnn.tune.study import Trials, search

__all__ = ["Trials", "search"]
