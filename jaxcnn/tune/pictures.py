"""Pictures of a study."""

from typing import Any

from jaxcnn.tasks.figures import new_figure
from jaxcnn.tune.trials import Trials


def draw(trials: Trials) -> Any:
    """Draw the result of each trial with the best so far, and the importance of each setting."""
    figure = new_figure(10 if trials.importance else 5, 4)
    panels = figure.subplots(1, 2 if trials.importance else 1, squeeze=False)[0]
    done = [row for row in trials.rows if row["state"] == "complete"]
    better, best, line = (min if trials.metric[1] == "min" else max), None, []
    for row in done:
        best = row["value"] if best is None else better(best, row["value"])
        line.append(best)
    numbers = [row["number"] for row in done]
    panels[0].plot(numbers, [row["value"] for row in done], "o", color="#0072B2", label="trial")
    panels[0].plot(numbers, line, "-", color="#D55E00", label="best so far")
    panels[0].set(xlabel="trial", ylabel=f"validation {trials.metric[0]}")
    panels[0].legend()
    if trials.importance:
        names = sorted(trials.importance, key=lambda name: trials.importance[name])
        panels[1].barh(names, [trials.importance[name] for name in names], color="#0072B2")
        panels[1].set(xlabel="share of the variance of the results")
    return figure
