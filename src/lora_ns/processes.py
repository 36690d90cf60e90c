"""The processes that share one stage, as a launcher (accelerate, torchrun, srun) started them."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """How many there are, and which of them this is."""

    count: int = 1
    rank: int = 0

    @classmethod
    def here(cls) -> Processes:
        """From the environment that every launcher of torch.distributed sets."""
        return cls(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this one writes: artefacts, records, and what a person reads."""
        return self.rank == 0


ALONE = Processes()
"""One process that shares its work with nobody."""
