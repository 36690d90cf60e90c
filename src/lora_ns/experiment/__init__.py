"""Resolve an experiment file into its runs, without importing torch."""
