"""The tables of an experiment as CSV, Markdown, LaTeX and terminal output.

build.py            every table, written in every format
table.py            a table's cells, notes and sections
summary, comparison, over_tasks, cost, forgetting, tuning    one table each
"""
