"""One folder to deposit with a paper: everything small that the study is.

collect   which files it holds
readme    what they are, for a person
write     the folder
"""

from lora_ns.provenance.archive.write import archive
