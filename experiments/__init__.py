"""Experiments: one file each, `python -m experiments.NAME`. The clock starts here, before anything slow is imported."""

import gc
import sys
import time

START = time.perf_counter()
if sys.argv[0] == "-m":  # the program's start, not an import from elsewhere
    from experiments import early

    early.watch()
    gc.set_threshold(
        100_000, 20, 100
    )  # imports and tracing make half a million objects that stay; a tenth of the start went to looking
