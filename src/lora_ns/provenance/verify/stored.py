"""Check the stored artefacts against their checksums; nothing is rerun."""

from collections.abc import Iterator
from pathlib import Path

from lora_ns.store.integrity import faults, score_faults, tables_faults
from lora_ns.store.paths import Store


def checked(store: Store) -> Iterator[tuple[Path, list[str]]]:
    """Yield (path, faults) of every stored artefact, score and set of tables."""
    places = ("data/raw", "data/models", "data/tokens", "results/adapters", "results/merged")
    for place in places:
        folders = (store.root / place).iterdir() if (store.root / place).is_dir() else []
        for folder in sorted(folders):
            if folder.is_dir() and not folder.name.startswith("."):
                yield folder, faults(folder)
    for path in sorted((store.root / "results/scores").glob("*/*.json")):
        yield path, score_faults(path, store.predictions(path.parent.name, path.stem))
    for path in sorted((store.root / "results/tables").glob("*/record-*.json")):
        yield path, tables_faults(path, store.root)
