"""One folder to deposit with a paper: everything small that the study is, in a form that other archives read.

collect   which files it holds
crate     what they are and how they came about, as a Workflow Run RO-Crate
readme    the same for a person
write     the folder
"""

from lora_ns.archive.write import archive

__all__ = ["archive"]
