"""The archive of an experiment, to deposit with a paper: all its small files, no weights and no data.

collect   the list of its files
readme    its README
write     the folder
"""

from lora_ns.provenance.archive.write import archive
