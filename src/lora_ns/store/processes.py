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

    def meet(self) -> None:
        """Waits until all processes have come here, where they have a way to know of one another."""
        if self.count > 1:
            import torch.distributed as group

            if group.is_available() and group.is_initialized():
                group.barrier()


ALONE = Processes()
"""One process that shares its work with nobody."""
