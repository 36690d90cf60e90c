"""What would fail in the tenth minute of a run, found before its first second.

Configs are held against what is on this disk already: rows that the project makes itself, local files, rows and models
that were fetched before.  Nothing is downloaded, trained or written; what is not here is not looked at.

rows.py       a look at a data set: its splits, columns, and a sample of its rows
fitting.py    whether the rows fit the config: templates, labels, answers, and what the benchmarks ask of them
length.py     whether the answers fit into max_length, as the model's own tokenizer counts
base.py       whether the base model has what the method and the task want of it
"""

from lora_ns.workflow.preflight.check import look_ahead
from lora_ns.workflow.preflight.finding import Finding
