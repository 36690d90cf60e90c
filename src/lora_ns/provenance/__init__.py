"""Provenance of a number or a file: from a table's cell back to data, code and machine.

cell_address  PATH[:row,column] -> a file, a cell of it, and the scores behind the cell
lineage       a score, adapter or data artefact -> all that went into it
trace         any of these -> one answer, with the command that makes it again
"""

from lora_ns.provenance.text import as_text
from lora_ns.provenance.trace import trace
