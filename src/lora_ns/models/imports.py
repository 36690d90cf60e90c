"""Imports of heavy libraries: skip those that no run uses, silence their output, keep them out of garbage collection."""

import functools
import gc
import logging
import os
import sys
import warnings

from lora_ns.config import RunConfig
from lora_ns.models.machine import uses_bitsandbytes

USUAL = gc.get_threshold()
WHILE_IMPORTING = 100_000
"""Garbage collection threshold during imports, which make a million objects that all stay."""


def prepare_imports(*configs: RunConfig) -> None:
    """Block imports of libraries that no run uses, and silence the others.  Call it before importing any of them."""
    gc.set_threshold(WHILE_IMPORTING)
    if not any(uses_bitsandbytes(config) for config in configs):
        # PEFT and transformers import it if it is installed, which takes 4 s per process
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    if not launched and not any(config.training.arguments.get("deepspeed") for config in configs):
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|peft|accelerate)\..*")


def freeze_imports() -> None:
    """Exclude imported objects from garbage collection, which transformers runs at every start of training."""
    gc.set_threshold(*USUAL)
    _freeze()


@functools.cache
def _freeze() -> None:
    gc.collect()  # frozen garbage would never be freed
    gc.freeze()


def keep_torch_away() -> None:
    """Block torch in a process that only needs a tokenizer.  Without torch, transformers loads in a third of the time."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # transformers warns when torch is missing
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
