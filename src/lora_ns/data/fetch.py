"""Fetch a data set's rows as parquet.  READS hub, files or a generator   WRITES data/raw/<dataset>-<digest>

Also downloads hub models to this machine's cache, so that training needs no network.
"""

import json
from pathlib import Path

import pyarrow.parquet as parquet

from lora_ns.config import DatasetConfig, ModelConfig
from lora_ns.config.text_files import replace_text
from lora_ns.data import sources
from lora_ns.errors import ConfigError
from lora_ns.store import record
from lora_ns.store.artifact import atomic_artifact, is_finished
from lora_ns.store.digests import rows_identity
from lora_ns.store.paths import Store


def fetch(dataset: DatasetConfig, store: Store) -> Path:
    """Make the rows artefact if it is missing.  Returns its folder.  Raises DataError."""
    target = store.rows(dataset)
    if is_finished(target):
        return target
    meter = record.Meter()
    with atomic_artifact(target) as (folder, notes):
        with meter.part("loading"):
            rows = sources.load(dataset)
        for split, table in rows.tables.items():
            parquet.write_table(table, folder / f"{split}.parquet", compression="zstd")
        counts = {split: table.num_rows for split, table in rows.tables.items()}
        notes |= record.describe(
            "fetch",
            store.rows_digest(dataset),
            {"name": dataset.name, **rows_identity(dataset, store.remembered)},
            inputs={},
            rows=counts,
            columns={split: table.column_names for split, table in rows.tables.items()},
            warnings=rows.warnings,
            meter=meter,
        )
    store.local_files.remember(dataset)
    return target


def fetch_model(model: ModelConfig, store: Store) -> Path:
    """Download a hub model's files and write a note with their folder.  Returns the note's path.  Raises ConfigError."""
    from lora_ns.store.model_files import download

    note = store.download(model)
    if note is None:
        raise ConfigError(f"model.name_or_path: {model.name_or_path} is not a model of the hub; there is nothing to fetch.")
    content = {"model": model.name_or_path, "revision": model.revision, "folder": str(download(model))}
    replace_text(note, json.dumps(content, indent=1) + "\n")
    return note
