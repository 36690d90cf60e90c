"""Rows: from where the config says, to parquet.  READS hub, files or a generator   WRITES data/raw/<dataset>-<digest>"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as parquet

from lora_ns import record, sources
from lora_ns.config import DatasetConfig
from lora_ns.store import Store, exists, making


def fetch(dataset: DatasetConfig, store: Store) -> Path:
    """Makes the rows artefact where it is missing; returns its folder.  Raises DataError."""
    target = store.rows(dataset)
    if exists(target):
        return target
    meter = record.Meter()
    with making(target) as (folder, notes):
        with meter.part("loading"):
            rows = sources.load(dataset)
        for split, table in rows.tables.items():
            parquet.write_table(table, folder / f"{split}.parquet", compression="zstd")
        counts = {split: table.num_rows for split, table in rows.tables.items()}
        notes |= record.describe(
            "fetch",
            target.name.rsplit("-", 1)[1],
            {"name": dataset.name, **sources.identity(dataset, store.remembered)},
            inputs={},
            rows=counts,
            columns={split: table.column_names for split, table in rows.tables.items()},
            warnings=rows.warnings,
            meter=meter,
        )
    store.remember(dataset)
    return target
