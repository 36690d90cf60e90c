"""The plan of an experiment: every run with its state, its size, and what it will take on a device."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lora_ns.config import RunConfig, nearest
from lora_ns.errors import ConfigError
from lora_ns.experiment.study import Study
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.planning import duration, memory
from lora_ns.workflow.planning.devices import GPUS, Device, known_machine, remember_machine
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.footprint import AnswerFootprint, StepFootprint
from lora_ns.workflow.planning.observed import Measured, measured
from lora_ns.workflow.planning.remedies import Fit, changed_run, fit_evaluation, fit_training
from lora_ns.workflow.planning.workload import Questions, Workload, workload_of
from lora_ns.workflow.status import RunStatus, State, all_runs, status_of_run


@dataclass(frozen=True)
class PlannedRun:
    """One run and its predictions. None means not known yet."""

    run: Run
    state: State
    workload: Workload
    step: StepFootprint | None
    """Also None for method `none`."""
    answers: tuple[tuple[AnswerFootprint, Questions], ...]
    measured: Measured | None

    @property
    def config(self) -> RunConfig:
        return self.run.config

    @property
    def trains(self) -> bool:
        """Whether the run trains: False for method `none`."""
        return self.workload.shape is not None

    @property
    def parameters(self) -> tuple[int, int] | None:
        """Parameter counts (trainable, total)."""
        known = self.step or (self.answers[0][0] if self.answers else None)
        return None if known is None else (known.trainable if self.trains else 0, known.total)

    @property
    def adapter_bytes(self) -> int:
        return self.step.adapter if self.step else 0

    @property
    def tokens(self) -> float | None:
        """Training tokens on one device, over all epochs."""
        steps = self.workload.steps
        return None if steps is None else steps * self.workload.tokens_per_step

    def train_bytes(self, device: Device) -> int | None:
        """Peak training memory in bytes; None if unknown or for method `none`."""
        return memory.training_bytes(self.step, device) if self.step else None

    def evaluate_bytes(self, device: Device) -> int | None:
        """Largest peak memory of the evaluations, in bytes."""
        return max((memory.evaluation_bytes(answer, asked, device) for answer, asked in self.answers), default=None)

    def peak_bytes(self, device: Device) -> int | None:
        """The larger of train_bytes and evaluate_bytes; None if the training step is unknown."""
        sizes = [size for size in (self.train_bytes(device), self.evaluate_bytes(device)) if size is not None]
        return max(sizes) if sizes and (self.step or not self.trains) else None

    def train_seconds(self, device: Device) -> float | None:
        """Training time in seconds; 0 for method `none`."""
        if not self.trains:
            return 0.0
        return duration.training_seconds(self.step, self.workload, self.config, device) if self.step else None

    def evaluate_seconds(self, device: Device) -> float | None:
        """Upper bound of the time of all evaluations, in seconds."""
        if len(self.answers) < len(self.workload.questions):
            return None
        parts = [duration.evaluation_seconds(answer, asked, self.config, device) for answer, asked in self.answers]
        return None if None in parts else sum(parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Misfit:
    """Runs of one task and method that need more memory than the device has."""

    runs: tuple[PlannedRun, ...]
    needed: int
    training: Fit | None
    """Settings that make training fit; None if it already fits or no tried setting helps."""
    evaluation: Fit | None
    hopeless: bool
    """Whether no tried setting makes the run fit."""


@dataclass(frozen=True)
class Plan:
    """All runs of an experiment, trials first, with their predictions for one device."""

    experiment: Study
    device: Device
    runs: tuple[PlannedRun, ...]
    misfits: tuple[Misfit, ...]
    failures: dict[str, str]
    """Model and method -> reason why they cannot be predicted."""
    predictor: Estimator
    factor: float | None
    """Median of measured / predicted training time over runs done on such a device; None without such runs."""

    @property
    def counts(self) -> Counter[State]:
        """Number of runs by state."""
        return Counter(planned.state for planned in self.runs)

    @property
    def to_do(self) -> list[PlannedRun]:
        """Runs with missing scores."""
        return [planned for planned in self.runs if planned.state != "done"]

    def groups(self) -> dict[tuple[str, str], list[PlannedRun]]:
        """Runs by (task, method)."""
        found: dict[tuple[str, str], list[PlannedRun]] = {}
        for planned in self.runs:
            found.setdefault((planned.config.task_name, planned.config.method), []).append(planned)
        return found

    def checkpointed(self, planned: PlannedRun) -> StepFootprint | None:
        """Predict the run's step with gradient checkpointing; None if the method does not allow it."""
        changed = changed_run(planned.run, {"training.gradient_checkpointing": True})
        shape = planned.workload.shape
        return self.predictor.step(changed, shape) if changed is not None and shape is not None else None

    def seconds_to_do(self, device: Device) -> float | None:
        """Time in seconds for the remaining runs on one device; None if it is unknown for any of them."""
        factor = self.factor if device is self.device and self.factor else 1.0
        total = 0.0
        for planned in self.to_do:
            train = 0.0 if planned.state == "trained" else planned.train_seconds(device)
            evaluate = planned.evaluate_seconds(device)
            if train is None or evaluate is None:
                return None
            total += factor * train + evaluate
        return total


def device_named(name: str, store: Store) -> Device:
    """Return a GPU of the table, or for `here` this machine, measured once (about 1 s).  Raises ConfigError listing the names."""
    if name == "here":
        return known_machine(store) or _this_machine(store)
    found = GPUS.get(name.lower())
    if found is None:
        known = [*GPUS, "here"]
        raise ConfigError(f"--device: no device is called {name!r}.{nearest(name, known)} Known: {', '.join(known)}.")
    return found


def _this_machine(store: Store) -> Device:
    from lora_ns.workflow.planning.speed import measure

    device = measure()
    remember_machine(device, store)
    return device


def make_plan(experiment: Study, store: Store, device: Device, predictor: Estimator) -> Plan:
    """Plan every run for one device. Before settings are chosen, compared runs use the first setting of their grid."""
    now = time.time()
    runs = tuple(_planned(status_of_run(run, store, now), store, predictor) for run in all_runs(experiment, provisional=True))
    misfits = tuple(_misfits(runs, store, device, predictor))
    return Plan(experiment, device, runs, misfits, predictor.failures, predictor, _factor(runs, device))


def _planned(status: RunStatus, store: Store, predictor: Estimator) -> PlannedRun:
    run = status.run
    workload = workload_of(run, run.evaluations)
    step = predictor.step(run, workload.shape) if workload.shape else None
    answers = [(predictor.answer(run, asked), asked) for asked in workload.questions]
    known = tuple((answer, asked) for answer, asked in answers if answer is not None)
    took = measured(run, store) if status.state in ("done", "trained") else None
    return PlannedRun(run, status.state, workload, step, known, took)


def _misfits(runs: Sequence[PlannedRun], store: Store, device: Device, predictor: Estimator) -> list[Misfit]:
    """Group the unfinished runs that need more memory than the device has by task, method and memory."""
    alike: dict[tuple[str, str, int, int], list[PlannedRun]] = {}
    for planned in runs:
        train, evaluate = planned.train_bytes(device) or 0, planned.evaluate_bytes(device) or 0
        if planned.state != "done" and max(train, evaluate) > device.memory:
            config = planned.config
            alike.setdefault((config.task_name, config.method, train, evaluate), []).append(planned)
    found = []
    for (_, _, train, evaluate), group in alike.items():
        run = group[0].run
        training = fit_training(run, predictor, device) if train > device.memory else None
        evaluation = fit_evaluation(run, predictor, device) if evaluate > device.memory else None
        hopeless = (train > device.memory and training is None) or (evaluate > device.memory and evaluation is None)
        found.append(Misfit(tuple(group), max(train, evaluate), training, evaluation, hopeless))
    return found


def _factor(runs: Sequence[PlannedRun], device: Device) -> float | None:
    ratios = [
        planned.measured.train_seconds / predicted
        for planned in runs
        if planned.measured is not None
        and planned.measured.train_seconds
        and planned.measured.was_on(device)
        and (predicted := planned.train_seconds(device))
    ]
    return median(ratios) if ratios else None
