"""Benchmarks of fxrep: each is one command that prints one table and writes one JSON file and one plot."""
