"""Rebuild a table cell from the rerun scores and compare it with the stored cell."""

from pathlib import Path

from lora_ns.experiment.study import read_trials
from lora_ns.provenance.cell_address import TableCell, find_cell
from lora_ns.provenance.compare_parts import Part
from lora_ns.provenance.trace import state_of_table, tables_record
from lora_ns.provenance.verify.run import Verified
from lora_ns.store.paths import Store

MEASURED = ("seconds", "memory", "tokens/s", "tokens_per_second", "time", "energy", "training (s)", "evaluation (s)")
"""Parts of column names that mark measurements, which differ in every run."""


def compare_cell(cell: TableCell, store: Store, scratch: Store, *, damaged: bool = False) -> Verified:
    """Rebuild the cell's table in the scratch store, with rerun scores where they exist, and compare the cell."""
    made = tables_record(cell.path.parent.name, store)
    state = state_of_table(cell.path, made, store)
    if absent := [name for name in made["inputs"] if not (store.root / name).is_file()]:
        return Verified(cell.address, "unknown", [Part("cell", "unknown", f"not here: {', '.join(absent)}")])
    if damaged:
        return Verified(cell.address, "damaged", [Part("cell", "different", "what it is made from is damaged")])
    table = _table_again(cell, store, scratch)
    again = find_cell(table / cell.path.name, [str(cell.row.number), cell.column])
    if again.text == cell.text:
        part = Part("cell", "identical", cell.text)
    elif any(word in cell.column for word in MEASURED):
        part = Part("cell", "within", f"a measurement, made anew: {cell.text} → {again.text}")
    else:
        part = Part("cell", "different", f"{cell.text} → {again.text}")
    if state.startswith("damaged"):
        file = Part("file", "different", state.removeprefix("damaged: "))
        return Verified(cell.address, "damaged", [part, file])
    return Verified(cell.address, part.state, [part])


def _table_again(cell: TableCell, store: Store, scratch: Store) -> Path:
    from lora_ns.reporting.results import collect
    from lora_ns.reporting.tables.build import write_tables

    made = tables_record(cell.path.parent.name, store)
    choices = [name for name in made["inputs"] if name.startswith("results/tuning/")]
    scores = [
        scratch.root / name if (scratch.root / name).is_file() else store.root / name
        for name in made["inputs"]
        if name not in choices
    ]
    general = made.get("general", ())
    results = collect(made["experiment"], scores, made["missing"], root=scratch.root, general=general)
    trials = [trial for name in choices for trial in read_trials(store.root / name)]
    folder = scratch.tables(cell.path.parent.name)
    write_tables(results, folder, trials)
    return folder
