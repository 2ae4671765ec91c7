"""Side-by-side timings against peers: one file each, `python -m experiments.benchmarks.NAME`."""
