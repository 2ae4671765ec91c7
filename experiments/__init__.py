"""Experiments, one file each: `python -m experiments.NAME`. The clock starts here, before slow imports."""

import gc
import sys
import time

START = time.perf_counter()
if sys.argv[0] == "-m":  # a program starts; this is not an import from elsewhere
    from experiments import early

    early.watch()
    # imports and tracing make half a million lasting objects; collection took a tenth of the start
    gc.set_threshold(100_000, 20, 100)
