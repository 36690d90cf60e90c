"""Experiment trackers (`training.report_to`) and checks that they are installed.  None is required."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lora_ns.config import RunConfig, nearest

PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "azure_ml": ("azureml",),
    "dagshub": ("dagshub",),
    "flyte": ("flytekit",),
}
"""transformers' tracker name -> packages, one of which must be installed."""


EVENTS = Path("logs/tensorboard")


def _named(config: RunConfig) -> list[str]:
    named = config.training.arguments.get("report_to") or []
    return [name for name in ([named] if isinstance(named, str) else named) if name != "none"]


def trackers_of(config: RunConfig) -> list[str]:
    """Return the trackers that the config names, without `all` (every installed one)."""
    return [name for name in _named(config) if name != "all"]


def is_tracked(config: RunConfig) -> bool:
    """Whether training reports to any tracker."""
    return bool(_named(config))


def keep_events(callbacks: Iterable[Any], folder: Path) -> None:
    """Set TensorBoard's event folder. Transformers' default is in the run's scratch folder, which is deleted.

    TENSORBOARD_LOGGING_DIR takes precedence.
    """
    from transformers.integrations.integration_utils import TensorBoardCallback

    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
            callback.logging_dir = str(folder)


def missing_trackers(config: RunConfig) -> list[str]:
    """Return one message per unknown or uninstalled tracker, with the remedy."""
    problems = []
    for name in trackers_of(config):
        if name not in PACKAGES:
            known = f"{nearest(name, PACKAGES)} Known: {', '.join(PACKAGES)}."
            problems.append(f"training.report_to: there is no tracker {name!r}.{known}")
        elif not any(find_spec(package) for package in PACKAGES[name]):
            problems.append(
                f"training.report_to: {name} is not installed; `pip install {PACKAGES[name][0]}`, or leave it out: "
                "results/adapters/<run>/history.jsonl holds every step by itself."
            )
    return problems
