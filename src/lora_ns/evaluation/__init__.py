"""Benchmarks are run on a model, and its completions are scored."""
