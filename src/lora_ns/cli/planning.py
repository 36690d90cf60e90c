"""The command plan: predicted memory, time and disk of an experiment."""

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lora_ns.cli.options import ExperimentArgument, console, errors
from lora_ns.cli.units import bytes_as_text, count_as_text, seconds_as_text
from lora_ns.experiment.study import load_experiment
from lora_ns.store.paths import Store
from lora_ns.workflow.planning.devices import GPUS, Device
from lora_ns.workflow.planning.estimator import Estimator
from lora_ns.workflow.planning.memory import cache_bytes
from lora_ns.workflow.planning.plan import Misfit, Plan, PlannedRun, device_named, make_plan

app = typer.Typer()
WIDE = 120
"""Terminal columns from which tables show extra columns."""


@app.command()
def plan(
    experiment: ExperimentArgument,
    device: Annotated[
        str, typer.Option(help=f"For which device: here (this machine), {', '.join(GPUS)}.", show_default=True)
    ] = "here",
    each_run: Annotated[bool, typer.Option("--runs", help="A line for each run.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="What the memory is taken for.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Every run: what is there of it, and what the rest will take.  Example: lora-ns plan configs/experiments/demo.yaml"""
    store = Store()
    loaded = load_experiment(experiment, store)
    with errors.status("Predicting …") as waiting:
        predictor = Estimator(store, notice=lambda what: waiting.update(f"Predicting {what} …"))
        made = make_plan(loaded, store, device_named(device, store), predictor)
    if as_json:
        typer.echo(json.dumps(plan_as_json(made), indent=1))
        return
    screen = console()
    screen.print(_runs_table(made, screen.width) if each_run else _groups_table(made, screen.width))
    if memory:
        screen.print(_memory_table(made))
    if (done := _measured_table(made)).row_count:
        screen.print(done)
    screen.print(_devices_table(made))
    for line in _closing(made):
        screen.print(line, markup=False, highlight=False)


def _table(title: str, *columns: str, words: int = 2) -> Table:
    """Return an empty table; the first `words` columns are left-aligned, the others right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < words else "right", no_wrap=place >= words, overflow="fold")
    return table


def _groups_table(made: Plan, width: int) -> Table:
    """Return one row per task and method: sizes of the largest run, mean times."""
    wide = width >= WIDE
    columns = ["task", "method", "done", "trained", *(["of all", "tokens"] if wide else []), "steps", "memory"]
    columns += ["training", "evaluation", "adapter"] if wide else ["a run"]
    table = _table(f"{made.experiment.name} on {_name_of(made.device)}", *columns)
    for (task, method), runs in made.groups().items():
        done = sum(run.state == "done" for run in runs)
        table.add_row(task, method, f"{done}/{len(runs)}", *_figures(runs, made, wide))
    return table


def _runs_table(made: Plan, width: int) -> Table:
    """Return one row per run."""
    wide = width >= WIDE
    columns = ["run", "state", "trained", *(["of all", "tokens"] if wide else []), "steps", "memory"]
    columns += ["training", "evaluation", "adapter"] if wide else ["time"]
    table = _table(f"{made.experiment.name} on {_name_of(made.device)}", *columns)
    for run in made.runs:
        table.add_row(run.run.name, run.state, *_figures([run], made, wide))
    return table


def _figures(runs: list[PlannedRun], made: Plan, wide: bool) -> list[str]:
    """Return the cells that follow the names: parameters, tokens, steps, memory and time."""
    device = made.device
    guess = "" if all(run.workload.measured for run in runs) else "~"
    trained, total = zip(*(run.parameters or (None, None) for run in runs), strict=True)
    train = _mean([run.train_seconds(device) for run in runs])
    train = train * made.factor if train is not None and made.factor else train
    evaluate = _mean([run.evaluate_seconds(device) for run in runs])
    both = None if train is None or evaluate is None else train + evaluate
    cells = [count_as_text(_greatest(trained))]
    cells += [count_as_text(_greatest(total)), guess + count_as_text(_greatest([r.tokens for r in runs]))] if wide else []
    cells += [_steps([run.workload.steps for run in runs])]
    cells += [guess + bytes_as_text(_greatest([run.peak_bytes(device) for run in runs]))]
    if not wide:
        return [*cells, guess + seconds_as_text(both)]
    adapter = bytes_as_text(_greatest([run.adapter_bytes for run in runs]))
    return [*cells, guess + seconds_as_text(train), guess + seconds_as_text(evaluate), adapter]


def _memory_table(made: Plan) -> Table:
    """Return the parts of peak training memory, the KV cache and the peak of evaluation."""
    columns = ("weights", "gradients", "optimizer", "activations", "checkpointed", "keys, values", "evaluation")
    table = _table("Memory: what is alive at the peak", "task", "method", *columns)
    for (task, method), runs in made.groups().items():
        run = max(runs, key=lambda r: r.peak_bytes(made.device) or 0)
        step, lean = run.step, made.checkpointed(run)
        caches = [cache_bytes(answer, asked) for answer, asked in run.answers]
        peaks = [max(answer.peak, answer.weights + cache_bytes(answer, asked)) for answer, asked in run.answers]
        parts = (step.weights, step.gradients, step.optimizer, step.activations) if step else (None,) * 4
        sizes = (*parts, lean and lean.activations, max(caches, default=None), max(peaks, default=None))
        table.add_row(task, method, *map(bytes_as_text, sizes))
    return table


def _measured_table(made: Plan) -> Table:
    """Return predicted against measured memory and time of the runs done on a device of this kind."""
    table = _table("Predicted, and measured", "task", "method", "memory", "", "", "training", "", "")
    for (task, method), runs in made.groups().items():
        known = [run for run in runs if run.measured and run.measured.was_on(made.device) and run.step]
        if not known:
            continue
        sizes = [(run.train_bytes(made.device), run.measured.train_bytes) for run in known if run.measured]
        times = [(run.train_seconds(made.device), run.measured.train_seconds) for run in known if run.measured]
        table.add_row(task, method, *_compared(sizes, bytes_as_text), *_compared(times, seconds_as_text))
    return table


def _compared(pairs: list[tuple[Any, Any]], as_text: Any) -> list[str]:
    """Return the mean prediction, the mean measurement and the relative error of the prediction."""
    known = [(a, b) for a, b in pairs if a is not None and b]
    if not known:
        return ["–", "–", ""]
    predicted, found = (sum(side) / len(known) for side in zip(*known, strict=True))
    return [as_text(predicted), as_text(found), f"{predicted / found - 1:+.0%}"]


def _devices_table(made: Plan) -> Table:
    """Return memory, time and runs that do not fit, for the remaining work on each kind of device."""
    table = _table("What is left to do, one run after the other", "device", "memory", "time", "too small for", words=1)
    for device in (made.device, *(gpu for gpu in GPUS.values() if gpu is not made.device)):
        lacking = [run for run in made.to_do if (run.peak_bytes(device) or 0) > device.memory]
        small = f"{len(lacking)} runs" if lacking else ""
        table.add_row(device.name, bytes_as_text(device.memory), seconds_as_text(made.seconds_to_do(device)), small)
    return table


def _closing(made: Plan) -> list[str]:
    """Return the sentences printed below the tables."""
    counts, left = made.counts, made.to_do
    states = ", ".join(f"{counts[state]} {state}" for state in counts if state != "done")
    lines = [f"{len(made.runs)} runs: {counts['done']} done{', ' + states if states else ''}."]
    if made.experiment.needs_selection:
        lines.append("Settings are still searched for: what is compared is counted with the first setting of each grid.")
    adapters = sum(run.adapter_bytes for run in left)
    if adapters:
        lines.append(f"Adapters still to come take {bytes_as_text(adapters)} of disk.")
    if made.factor is not None:
        lines.append(f"Training times are {made.factor:.2g} times the prediction, as in the runs that are done.")
    if any(not run.workload.measured for run in made.runs):
        lines.append("~ rows are not tokenised yet and taken to be long; `snakemake --cores 2 data` makes them exact.")
    if any(run.trains and run.workload.steps is None for run in made.runs):
        lines.append("– a data set that is not fetched yet: its rows, and so steps and time, are not known.")
    lines += [f"Not predicted: {what}: {why}" for what, why in made.failures.items()]
    return [*lines, *(_advice(misfit, made.device) for misfit in made.misfits)]


def _advice(misfit: Misfit, device: Device) -> str:
    config = misfit.runs[0].config
    runs = f" ({len(misfit.runs)} runs)" if len(misfit.runs) > 1 else ""
    said = f"{config.task_name} with {config.method}{runs} takes {bytes_as_text(misfit.needed)}, "
    said += f"{_name_of(device)} has {bytes_as_text(device.memory)}"
    if misfit.hopeless:
        return f"{said}; nothing that was tried makes it fit: smaller batches, checkpointing, 8 and 4 bits, shorter rows."
    fits = [fit for fit in (misfit.training, misfit.evaluation) if fit is not None]
    return f"{said}; it fits with {' '.join(map(str, fits))} ({bytes_as_text(max(fit.bytes for fit in fits))})."


def _name_of(device: Device) -> str:
    return device.name if device.is_gpu else f"this machine ({device.name}, {bytes_as_text(device.memory)})"


def _steps(steps: list[int | None]) -> str:
    known = [n for n in steps if n is not None]
    return f"{max(known):,}" if known else "–"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _greatest(values: Any) -> Any:
    return max((value for value in values if value is not None), default=None)


def plan_as_json(made: Plan) -> dict[str, Any]:
    """Return the plan as plain values in bytes and seconds; null means unknown."""
    devices = [made.device, *(gpu for gpu in GPUS.values() if gpu is not made.device)]
    return {
        "experiment": made.experiment.name,
        "device": made.device.name,
        "memory_bytes": made.device.memory,
        "counts": dict(made.counts),
        "measured_by_predicted_seconds": made.factor,
        "seconds_to_do": {device.name: made.seconds_to_do(device) for device in devices},
        "runs": [_run_as_json(run, made.device) for run in made.runs],
        "not_predicted": made.failures,
        "does_not_fit": [
            {
                "runs": [run.run.name for run in misfit.runs],
                "needed_bytes": misfit.needed,
                "fits_with": {k: v for fit in (misfit.training, misfit.evaluation) if fit for k, v in fit.changes.items()},
                "hopeless": misfit.hopeless,
            }
            for misfit in made.misfits
        ],
    }


def _run_as_json(run: PlannedRun, device: Device) -> dict[str, Any]:
    trainable, total = run.parameters or (None, None)
    config, workload, took = run.config, run.workload, run.measured
    return {
        "run": run.run.name,
        "task": config.task_name,
        "method": config.method,
        "seed": config.seed,
        "state": run.state,
        "trainable_parameters": trainable,
        "total_parameters": total,
        "rows": workload.rows,
        "tokens": run.tokens,
        "lengths_measured": workload.measured,
        "steps": workload.steps,
        "train_memory_bytes": run.train_bytes(device),
        "evaluate_memory_bytes": run.evaluate_bytes(device),
        "train_seconds": run.train_seconds(device),
        "evaluate_seconds": run.evaluate_seconds(device),
        "adapter_bytes": run.adapter_bytes,
        "measured": took
        and {
            "train_memory_bytes": took.train_bytes,
            "train_seconds": took.train_seconds,
            "evaluate_memory_bytes": took.evaluate_bytes,
            "evaluate_seconds": took.evaluate_seconds,
            "on_such_a_device": took.was_on(device),
        },
    }
