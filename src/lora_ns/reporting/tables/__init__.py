"""From score files to the paper's tables and figures.

stage.py           which scores, which files, and whether anything has changed
collect.py         score files to one set of results
build.py           results to tables in every format; figures/ results to figures
"""
