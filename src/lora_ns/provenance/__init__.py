"""Where a number, a file or a model came from: from a table's cell back to data, code and machine.

address   PATH[:row,column] -> a file and a cell of it
cells     a table's cell -> the scores behind it
lineage   a score, adapter or data artefact -> all that went into it
trace     any of these -> one answer, with the command that makes it again
"""

from lora_ns.provenance.text import as_text
from lora_ns.provenance.trace import trace

__all__ = ["as_text", "trace"]
