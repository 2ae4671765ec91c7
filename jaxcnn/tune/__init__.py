"""The search for settings: many short trainings, of which the promising ones go on."""

from jaxcnn.tune.study import extend, search, some_values
from jaxcnn.tune.trials import Trials

__all__ = ["Trials", "extend", "search", "some_values"]
