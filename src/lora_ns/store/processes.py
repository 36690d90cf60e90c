"""The processes of one stage, as started by a launcher (accelerate, torchrun, srun)."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """The number of processes, and this process's rank."""

    count: int = 1
    rank: int = 0

    @classmethod
    def here(cls) -> Processes:
        """Return count and rank from the variables that every torch.distributed launcher sets."""
        return cls(int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this process has rank 0, which writes artefacts, records and terminal output."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all processes are here.  Does nothing without a torch.distributed process group."""
        if self.count > 1:
            import torch.distributed as group

            if group.is_available() and group.is_initialized():
                group.barrier()


ALONE = Processes()
"""A single process."""
