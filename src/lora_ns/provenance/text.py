"""The result of `trace` as text: the chain from the target down to its inputs; shared details are printed once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

INDENT = "  "


def as_text(found: Mapping[str, Any]) -> str:
    """Return the result of `trace` as printable lines."""
    kind = found["kind"]
    lines = {"cell": _cell, "table": _table, "figure": _table, "report": _table, "score": _whole_score, "adapter": _whole_adapter}
    made = list(lines.get(kind, _artefact)(found))
    command = found.get("made_again_by")
    return "\n".join([*made, *(["", "Make it again:", f"{INDENT}{command}"] if command else [])])


def _cell(found: Mapping[str, Any]) -> Iterator[str]:
    values = ", ".join(f"{_value(v['value'])} (seed {v['seed']})" for v in found["values"])
    row = ", ".join(filter(None, found["row_speaks_of"].values()))
    yield f"{found['path']}, row {found['row']} ({row}), column {found['column']}: {found['text']}"
    yield from _damage(found)
    yield f"{INDENT}made from {len(found['scores'])} scores" + (f" of {found['metric']}: {values}" if found["metric"] else "")
    yield from _scores(found["scores"], found["here"])
    yield from (f"{path}  [not here], and may be behind the cell too" for path in found["not_here"])


def _damage(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the state of a table file unless it is intact."""
    if found["state"] != "intact":
        yield f"{INDENT}[{found['state']}]"


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['path']}: a {found['kind']} of experiment {found['experiment']['name']}, made from"
    yield from _damage(found)
    yield from (f"{INDENT}{score['path']}{'' if score['here'] else '  (not here)'}" for score in found["scores"])
    yield from (f"{INDENT}{run['run']}: {run['state']}" for run in found["missing"])
    if found["kind"] == "table":
        yield f"{INDENT}`lora-ns trace {found['path']}:ROW,COLUMN` says what one cell is made from."


def _whole_score(found: Mapping[str, Any]) -> Iterator[str]:
    yield from _scores([found], found["here"])


def _whole_adapter(found: Mapping[str, Any]) -> Iterator[str]:
    yield from _adapter(found, "")
    yield from _stage("trained with", found["trained"], found["here"], INDENT)


def _scores(scores: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> Iterator[str]:
    """Yield each score with its chain; code, versions and machine that all scores share come once, at the end."""
    shared = {
        key: value
        for key, value in {"evaluated": [s.get("evaluated") for s in scores], "trained": [_trained(s) for s in scores]}.items()
        if all(_same_stage(value[0], other) for other in value)
    }
    for score in scores:
        yield f"{score['path']}  [{score['state']}]"
        if "metrics" not in score:
            continue
        metrics = ", ".join(f"{name} {_value(value)}" for name, value in score["metrics"].items())
        yield f"{INDENT}{metrics} on {score['num_examples']} examples of {score['benchmark']}"
        yield from _linked("predictions", score["predictions"])
        yield from _linked("asked as", score["evaluation_file"])
        yield from _data("test rows", score["rows"])
        yield from _adapter(score["adapter"], INDENT)
        for key, title in (("evaluated", "evaluated with"), ("trained", "trained with")):
            if key not in shared:
                yield from _stage(title, score["evaluated"] if key == "evaluated" else _trained(score), here, INDENT)
        yield from (f"{INDENT}note: {text}" for text in score["warnings"] or [])
    for key, title in (("evaluated", "evaluated with"), ("trained", "trained with")):
        if shared.get(key) and shared[key][0]:
            yield from _stage(title, shared[key][0], here, "")


def _adapter(found: Mapping[str, Any], indent: str) -> Iterator[str]:
    yield f"{indent}adapter    {found['path']}  [{found['state']}]"
    inner = indent + INDENT
    for name, sha in found["files"].items():
        yield f"{inner}{name}  sha256 {sha[:16]}…"
    if found.get("is_the_one_scored") is False:
        yield f"{inner}NOT the adapter that the score is of: it was made again since, with other bits"
    yield from _linked("run file", found["run_file"], inner)
    if "base_model" in found:
        base = found["base_model"]
        yield f"{inner}base model {base['name']}  {_identity(base.get('identity')) or base.get('state', '')}"
    if found.get("tokens"):
        yield from _linked("tokens", found["tokens"], inner)
    yield from _data("train rows", found.get("rows"), inner)


def _data(title: str, rows: Mapping[str, Any] | None, indent: str = INDENT) -> Iterator[str]:
    if rows:
        where = f"{rows['path']}  " if "path" in rows else ""
        yield f"{indent}{title:<10} {where}[{rows['state']}]  from {_identity(rows.get('source')) or rows['name']}"


def _linked(title: str, file: Mapping[str, Any], indent: str = INDENT) -> Iterator[str]:
    yield f"{indent}{title:<10} {file['path']}  [{file['state']}]"


def _stage(title: str, how: Mapping[str, Any] | None, here: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield code, versions and machine of one stage."""
    if not how:
        return
    code, packages, hardware = how["code"] or {}, how["packages"] or {}, how["hardware"]
    commit = code.get("commit")
    dirty = ", with uncommitted changes" if code.get("dirty") else ""
    now = here["code"]["commit"]
    other = f"  (here: {str(now)[:12]}; `git checkout {commit[:12]}` goes back)" if commit and now and commit != now else ""
    yield f"{indent}{title}"
    yield f"{indent}{INDENT}commit     {commit or 'unknown'}{dirty}{other}"
    yield f"{indent}{INDENT}lock file  sha256 {str(code.get('lock_sha256'))[:16]}…"
    yield f"{indent}{INDENT}versions   {', '.join(f'{name} {v}' for name, v in packages.items() if v)}"
    if hardware:
        gpus = ", ".join(hardware["gpus"]) or "no GPU"
        yield (
            f"{indent}{INDENT}machine    {hardware['cpu']}, {hardware['threads']} threads, {gpus}, "
            f"{how['processes']} process{'es' if how['processes'] != 1 else ''}, {hardware['system']}"
        )
    if how["not_deterministic"]:
        yield f"{indent}{INDENT}not deterministic there: {', '.join(how['not_deterministic'])}"
    if how["finished"]:
        yield f"{indent}{INDENT}finished   {how['finished']}"


def _artefact(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['path']}  [{found['state']}], made by {found['kind']}"
    yield from (f"{INDENT}from {name}: {value}" for name, value in found["inputs"].items())
    yield from (f"{INDENT}{name}  sha256 {sha[:16]}…" for name, sha in found["files"].items())
    if "adapter" in found:
        yield from _adapter(found["adapter"], INDENT)
    yield from _stage("made with", found["made"], found["here"], INDENT)


def _trained(score: Mapping[str, Any]) -> Any:
    return (score.get("adapter") or {}).get("trained")


def _same_stage(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None) -> bool:
    """Whether two stages ran with the same code and versions on the same machine; the finishing time may differ."""
    return {**(a or {}), "finished": None} == {**(b or {}), "finished": None}


def _identity(source: Any) -> str:
    """Return a short form of a source: hub name and revision, builtin name and version, or file checksums."""
    if not isinstance(source, Mapping):
        return ""
    return ", ".join(f"{key} {_checksums(value)}" for key, value in source.items() if value not in (None, {}, []))


def _checksums(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_checksums(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return " ".join(_checksums(inner) for inner in value)
    text = str(value)
    return f"{text[:16]}…" if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


def _value(value: Any) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
