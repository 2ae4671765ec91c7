"""Questions that a student asks, each answered by a table over several seeds: `python -m experiments.studies.depth`."""
