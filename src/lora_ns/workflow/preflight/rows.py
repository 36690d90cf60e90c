"""Read a sample of a data set: its splits by role, with all rows or the first ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from lora_ns.config import DatasetConfig
from lora_ns.config.builtin import DATASET_DEFAULTS
from lora_ns.data import sources
from lora_ns.data.prompts import Row
from lora_ns.data.sources import SPLITS, local
from lora_ns.store.artifact import is_finished
from lora_ns.store.paths import Store

READ_WHOLE_BYTES = 16 * 2**20
FIRST_ROWS = 20_000
"""Rows read from each file if the data set is larger than READ_WHOLE_BYTES."""
GENERATED_ROWS = 200
"""Training rows generated from a builtin source."""


@dataclass(frozen=True)
class Sample:
    """The rows of a data set that were read."""

    splits: Mapping[str, pa.Table]
    """train, validation and test of the config, with renamed columns."""
    whole: bool
    """Whether these are all rows of a run."""
    lacking: Mapping[Path, list[str]] = field(default_factory=dict)
    """File -> columns that it lacks and other files of its split have."""

    def rows(self, split: str) -> list[Row]:
        """Return the rows of a split; empty if there is no such split."""
        return self.splits[split].to_pylist() if split in self.splits else []

    def known_splits(self) -> str:
        return ", ".join(self.splits) or "none"


def look_at(dataset: DatasetConfig, store: Store) -> Sample | None:
    """Read a sample of the data set; None if it must be downloaded first.  Raises DataError if it cannot be read."""
    folder = store.rows(dataset)
    if is_finished(folder):
        files = {split: parquet.ParquetFile(folder / f"{split}.parquet") for split in SPLITS if _has(folder, split)}
        tables = {split: _first_of(file) for split, file in files.items()}
        whole = all(file.metadata.num_rows <= FIRST_ROWS for file in files.values())
        return Sample(_renamed(tables, dataset), whole)
    if dataset.is_builtin:
        return Sample(_renamed(sources.load(_fewer(dataset)).tables, dataset), whole=False)
    if dataset.is_hub:
        return None
    files_of = local.files_by_split(dataset, {})
    total = sum(path.stat().st_size for files in files_of.values() for _, path in files)
    if total <= READ_WHOLE_BYTES:
        lacking = local.lacking_columns(local.parts(dataset))
        return Sample(_renamed(sources.load(dataset).tables, dataset), True, lacking)
    parts = local.parts(dataset, first=FIRST_ROWS)
    return Sample(_renamed(_by_role(local.joined(parts), dataset), dataset), False, local.lacking_columns(parts))


def _has(folder: Path, split: str) -> bool:
    return (folder / f"{split}.parquet").is_file()


def _first_of(file: parquet.ParquetFile) -> pa.Table:
    batch = next(file.iter_batches(batch_size=FIRST_ROWS), None)
    return pa.Table.from_batches([batch] if batch is not None else [], schema=file.schema_arrow)


def _fewer(dataset: DatasetConfig) -> DatasetConfig:
    """Limit a builtin source to a few training rows. The other splits are generated first and do not change."""
    count = dataset.options.get("num_train", DATASET_DEFAULTS["num_train"])
    if not isinstance(count, int) or count <= GENERATED_ROWS:
        return dataset  # the generator reports an invalid value
    return dataset.model_copy(update={"options": {**dataset.options, "num_train": GENERATED_ROWS}, "max_samples": None})


def _by_role(found: Mapping[str, pa.Table], dataset: DatasetConfig) -> dict[str, pa.Table]:
    """Map splits to roles. Rows to be held out of train are represented by train."""
    train = found.get(dataset.train_split)
    validation = found.get(dataset.validation_split or "validation")
    if validation is None and dataset.validation_size is not None:
        validation = train
    test = found.get(dataset.eval_split, train)
    tables = {"train": train, "validation": validation, "test": test}
    return {split: table for split, table in tables.items() if table is not None}


def _renamed(tables: Mapping[str, pa.Table], dataset: DatasetConfig) -> dict[str, pa.Table]:
    return {split: sources.renamed(table, dataset.columns) for split, table in tables.items()}
