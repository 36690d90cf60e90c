"""Preflight checks: find errors of a run before it starts.

Configs are checked against what is on this disk: builtin rows, local files, and rows and models fetched before.  Nothing
is downloaded, trained or written. What is not on this disk is not checked.

rows.py       read a sample of a data set: splits, columns, rows
fitting.py    check rows against the config: templates, labels, responses, benchmark rows
length.py     check that responses fit into max_length, with the model's tokenizer
base.py       check that the base model fits the method and task
"""

from lora_ns.workflow.preflight.check import look_ahead
from lora_ns.workflow.preflight.finding import Finding
