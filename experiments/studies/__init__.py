"""Studies: each answers a student's question with a table over several seeds: `python -m experiments.studies.depth`."""
