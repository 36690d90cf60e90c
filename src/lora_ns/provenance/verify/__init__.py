"""Results made again in scratch and compared with those that are kept.

targets   runs, experiments, scores or cells -> which runs and scores to make again
run       one run made again, and compared
cell      a table made again from scores that were made again, and one cell compared
stored    no run at all: what lies here against its checksums
"""
