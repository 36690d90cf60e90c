"""Rerun results in a scratch store and compare them with the stored ones.

targets   runs, experiments, scores or cells -> the runs and scores to rerun
run       rerun one run and compare it
cell      rebuild a table from rerun scores and compare one cell
stored    check the stored files against their checksums, without rerunning
"""
