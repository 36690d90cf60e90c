"""Other people's engines: loaded where a run uses them, kept unloaded and quiet where none does."""

from __future__ import annotations

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
"""New objects after which Python looks for garbage: imports make a million, all of which stay."""


def prepare_engines(*configs: RunConfig) -> None:
    """Keeps engines that none of the runs uses unloaded, and all engines' chatter off the terminal; before any import."""
    gc.set_threshold(WHILE_IMPORTING)
    if not any(uses_bitsandbytes(config) for config in configs):
        # PEFT and transformers import it wherever they find it, which takes four seconds a process
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    launched = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true"
    if not launched and not any(config.training.arguments.get("deepspeed") for config in configs):
        sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|trl|peft|accelerate)\..*")


def keep_imports() -> None:
    """Takes what was imported out of Python's garbage collection, which transformers calls for at every start of a training."""
    gc.set_threshold(*USUAL)
    _freeze()


@functools.cache
def _freeze() -> None:
    gc.collect()  # what is garbage by now: frozen, it would stay
    gc.freeze()


def keep_torch_away() -> None:
    """For a process that needs a tokenizer alone, which transformers loads without torch in a third of the time."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it says at length what it cannot do so
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
