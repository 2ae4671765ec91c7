"""Experiments: one file each, `python -m experiments.NAME`. The clock starts here, before anything slow is imported."""

import time

START = time.perf_counter()
