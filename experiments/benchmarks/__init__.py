"""Benchmarks that time jaxcnn beside its peers, one file each: `python -m experiments.benchmarks.NAME`."""
