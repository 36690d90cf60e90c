"""Write the archive's folder, completely or not at all.  READS results, records, configs, code   WRITES archive/<experiment>"""

import json
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lora_ns.errors import LoraNsError
from lora_ns.experiment.study import Study, load_experiment
from lora_ns.provenance.archive.collect import files_of
from lora_ns.provenance.archive.readme import readme
from lora_ns.store.integrity import load_verified_score
from lora_ns.store.local_files import sha256_file
from lora_ns.store.paths import Store


def archive(
    experiment_file: Path, store: Store, out: Path | None = None, *, licence: str | None = None, authors: Sequence[str] = ()
) -> Path:
    """Write the archive of a finished experiment and return its folder.

    Raises LoraNsError if runs or tables are missing or the folder exists, DamagedError for a damaged score.
    """
    experiment = load_experiment(experiment_file, store)
    _refuse_unfinished(experiment, store)
    target = out or store.root / "archive" / experiment.name
    if target.exists():
        raise LoraNsError(f"{target} is there already: name another folder with --out, or remove it.")
    scratch = target.parent / f".{target.name}.tmp-archive"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        for source, place in files_of(experiment, experiment_file, store).items():
            (scratch / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, scratch / place)
        about = _about(experiment, experiment_file, licence, authors)
        (scratch / "README.md").write_text(readme(experiment, about), encoding="utf-8")
        _write_checksums(scratch)
        scratch.replace(target)
    except OSError as error:
        raise LoraNsError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _refuse_unfinished(experiment: Study, store: Store) -> None:
    scores = [path for run in experiment.runs for path in run.scores]
    missing = [path for path in scores if not path.is_file()]
    if experiment.needs_selection or missing:
        what = f"{len(missing)} of {len(scores)} scores are missing, as {missing[0]}" if missing else "its settings are open"
        raise LoraNsError(f"{experiment.name} is not finished: {what}. `snakemake` makes what is missing.")
    for path in scores:
        load_verified_score(path)
    if not experiment.tables_record.is_file():
        raise LoraNsError(f"{experiment.name} has no tables yet; `lora-ns tables` makes them.")


def _about(experiment: Study, experiment_file: Path, licence: str | None, authors: Sequence[str]) -> dict[str, Any]:
    """Return the facts for the README: commits, version, number of scores, hardware, licence, authors."""
    scores = [json.loads(path.read_text(encoding="utf-8")) for run in experiment.runs for path in run.scores]
    return {
        "experiment_file": experiment_file.as_posix(),
        "commits": sorted({str(score["code"]["commit"]) for score in scores}),
        "version": version("lora-ns"),
        "num_scores": len(scores),
        "hardware": sorted({score["circumstances"]["hardware"]["cpu"] for score in scores}),
        "gpus": sorted({gpu for score in scores for gpu in score["circumstances"]["hardware"]["gpus"]}),
        "licence": licence,
        "authors": list(authors),
    }


def _write_checksums(folder: Path) -> None:
    """Write SHA256SUMS in the format of `sha256sum --check`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_file(path)}  {path.relative_to(folder).as_posix()}" for path in files]
    (folder / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")
