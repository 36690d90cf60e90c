"""What an archive holds, for machines: a Workflow Run RO-Crate.

Profiles: https://w3id.org/ro/wfrun/workflow/0.5, and with it Process Run Crate 0.5 and Workflow RO-Crate 1.0.  One action
for the whole workflow, one for each stage of each run that left a record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.model.person import Person
from rocrate.model.softwareapplication import SoftwareApplication
from rocrate.rocrate import ROCrate

from lora_ns.experiment import Experiment

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
MEDIA = {
    ".json": "application/json",
    ".yaml": "application/yaml",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".html": "text/html",
    ".py": "text/x-python",
}
COMPLETED = "http://schema.org/CompletedActionStatus"
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"


def write_crate(out: Path, experiment: Experiment, about: Mapping[str, Any]) -> None:
    """Writes ro-crate-metadata.json over the files that lie in `out`.

    about: commit, date (ISO 8601, of the last stage), licence, authors, experiment_file.
    """
    crate = ROCrate(version="1.1")  # the version that the profiles are written for
    crate.metadata.extra_contexts.append(TERMS)
    root = crate.root_dataset
    root["name"] = experiment.title
    root["description"] = experiment.caption or (
        f"Configurations, scores, tables, figures and records of the experiment {experiment.name!r}: "
        f"{len(experiment.methods)} methods on {len(experiment.tasks)} tasks, seeds {experiment.seeds}."
    )
    root["datePublished"] = about["date"]
    root["license"] = _licence(crate, about["licence"])
    root["conformsTo"] = [_profile(crate, address, *names) for address, names in PROFILES.items()]
    people = [
        crate.add(Person(crate, f"#author-{i}", {"name": name})) for i, name in enumerate(about["authors"], start=1)
    ]
    if people:
        root["author"] = _single(people)
    files = _add_files(crate, out)
    files["README.md"]["about"] = root
    workflow = _add_workflow(crate, out, root["license"], about)
    software = crate.add(
        SoftwareApplication(
            crate,
            "#lora-ns",
            {
                "name": "lora-ns",
                "softwareVersion": about["version"],
                "identifier": about["commit"] or "unknown commit",
            },
        )
    )
    _add_study(crate, root, workflow, files, people, about)
    for record in sorted(out.glob("records/results/adapters/*/record.json")):
        _add_training(crate, record, software, files, people)
    for score in sorted(out.glob("results/scores/*/*.json")):
        _add_evaluation(crate, score, software, files, people)
    crate.metadata.write(out)


def _licence(crate: ROCrate, licence: str | None) -> Any:
    """The licence as an entity of the crate: an address, or a sentence."""
    address = licence if licence and licence.startswith("http") else "#licence"
    said = licence or "No licence was stated: ask the authors before any use beyond reading."
    return crate.add(ContextEntity(crate, address, {"@type": "CreativeWork", "name": said, "description": said}))


def _profile(crate: ROCrate, address: str, name: str, version: str) -> Any:
    return crate.add(ContextEntity(crate, address, {"@type": "CreativeWork", "name": name, "version": version}))


def _add_files(crate: ROCrate, out: Path) -> dict[str, Any]:
    """Every file but the workflow itself, by its path in the archive."""
    found = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = path.relative_to(out).as_posix()
        if name in ("ro-crate-metadata.json", "Snakefile"):
            continue
        facts: dict[str, Any] = {"name": name, "contentSize": str(path.stat().st_size)}
        facts["encodingFormat"] = MEDIA.get(path.suffix, "text/plain")
        found[name] = crate.add_file(path, dest_path=name, properties=facts)
    return found


def _add_workflow(crate: ROCrate, out: Path, licence: Any, about: Mapping[str, Any]) -> Any:
    facts = {
        "name": "lora-ns",
        "description": "One experiment file in, the paper's tables out.",
        "encodingFormat": "text/plain",
        "license": licence,
        "version": about["version"],
        "conformsTo": _profile(crate, BIOSCHEMAS, "Bioschemas ComputationalWorkflow", "1.0-RELEASE"),
    }
    return crate.add_workflow(out / "Snakefile", "Snakefile", main=True, lang="snakemake", properties=facts)


def _add_study(
    crate: ROCrate, root: Any, workflow: Any, files: Mapping[str, Any], people: list[Any], about: Mapping[str, Any]
) -> None:
    """The run of the workflow: from the experiment's files to its tables and figures."""
    made = ("results/tables/", "results/figures/", "results/scores/", "results/metrics/")
    given = [
        entity for name, entity in files.items() if name.startswith("configs/") or name == about["experiment_file"]
    ]
    action = {
        "@type": "CreateAction",
        "name": f"snakemake --config experiment={about['experiment_file']}",
        "instrument": workflow,
        "object": _single(given),
        "result": _single([entity for name, entity in files.items() if name.startswith(made)]),
        "startTime": _moment(about["started"]),
        "endTime": _moment(about["date"]),
        "actionStatus": COMPLETED,
        **({"agent": people[0]} if people else {}),
    }
    root["mentions"] = [crate.add(ContextEntity(crate, "#study", action))]


def _add_training(crate: ROCrate, record: Path, software: Any, files: Mapping[str, Any], people: list[Any]) -> None:
    content = json.loads(record.read_text(encoding="utf-8"))
    run = record.parent.name
    given = [files[name] for name in (f"results/runs/{run}.yaml",) if name in files]
    _add_action(crate, f"#train-{run}", f"training of {run}", content, software, given, [files[_name(record)]], people)


def _add_evaluation(crate: ROCrate, score: Path, software: Any, files: Mapping[str, Any], people: list[Any]) -> None:
    content = json.loads(score.read_text(encoding="utf-8"))
    run, name = score.parent.name, score.stem
    wanted = (f"results/evaluations/{name}.yaml", f"results/runs/{run}.yaml")
    given = [files[path] for path in wanted if path in files]
    title = f"evaluation of {run} on {content['benchmark']}"
    _add_action(crate, f"#evaluate-{run}-{name}", title, content, software, given, [files[_name(score)]], people)


def _name(path: Path) -> str:
    """The path in the archive: from `results` or `records` on."""
    parts = path.parts
    start = max(i for i, part in enumerate(parts) if part in ("records", "results") and "records" not in parts[:i])
    return "/".join(parts[start:])


def _moment(utc: str) -> str:
    """A record's time with the offset written out, as Process Run Crate wants it."""
    return utc.removesuffix("Z") + "+00:00" if utc.endswith("Z") else utc


def _single(entities: list[Any]) -> Any:
    """One entity by itself, as RO-Crate 1.1 wants it; several as a list."""
    return entities[0] if len(entities) == 1 else entities


def _add_action(
    crate: ROCrate,
    identity: str,
    title: str,
    content: Mapping[str, Any],
    software: Any,
    given: list[Any],
    made: list[Any],
    people: list[Any],
) -> None:
    """One stage of one run, with the versions and the machine that it ran on."""
    around = content["circumstances"]
    hardware, packages = around["hardware"], content["packages"]
    machine = ", ".join([hardware["cpu"], f"{hardware['threads']} threads", *(hardware["gpus"] or ["no GPU"])])
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    action = {
        "@type": "CreateAction",
        "name": title,
        "description": f"commit {content['code']['commit'] or 'unknown'}; {machine}; {versions}",
        "instrument": software,
        "object": _single(given),
        "result": _single(made),
        "endTime": _moment(around["finished"]),
        "actionStatus": COMPLETED,
        **({"agent": people[0]} if people else {}),
    }
    crate.root_dataset.append_to("mentions", crate.add(ContextEntity(crate, identity, action)))
