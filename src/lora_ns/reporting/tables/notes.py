"""Notes below a table: missing runs, test details and provenance warnings."""

from collections.abc import Iterator, Mapping
from itertools import count, product
from string import ascii_lowercase
from typing import Any

from lora_ns.reporting.results import Results
from lora_ns.reporting.tables.table import Note


class Notes:
    """The notes of one table, collected in the order of its cells."""

    def __init__(self, results: Results):
        self._results = results
        self._symbols: dict[str, str] = {}
        self._letters: dict[str, str] = {}
        self._names = _letters()
        self._plain: list[str] = []

    def symbol(self, mark: str, text: str) -> tuple[str, ...]:
        """Add a note for a mark that many cells share; returns the mark."""
        self._symbols[mark] = text
        return (mark,)

    def of_missing(self, task: str, method: str, benchmark: str | None = None) -> tuple[str, ...]:
        """Return the mark for missing runs of a method on a task (and benchmark), () if none; equal notes share a mark."""
        parts: dict[tuple[str, str], list[int]] = {}
        for run in self._results.lacking(task, method, benchmark):
            parts.setdefault((run.state, run.reason.strip().rstrip(".")), []).append(run.seed)
        if not parts:
            return ()
        said = [f"{_seeds(of)} {state}" + (f" ({why})" if why else "") for (state, why), of in parts.items()]
        text = f"{task}: {'; '.join(said)}."
        if text not in self._letters:
            self._letters[text] = next(self._names)
        return (self._letters[text],)

    def explain(self, text: str) -> None:
        """Add a note about the whole table."""
        if text not in self._plain:
            self._plain.append(text)

    def all(self) -> tuple[Note, ...]:
        """Return the notes: explanations, symbols, letters, then warnings about the whole experiment."""
        notes = [Note("", text) for text in self._plain]
        notes += [Note(mark, text) for mark, text in sorted(self._symbols.items(), key=lambda s: "†‡§¶".find(s[0]))]
        notes += [Note(mark, text) for text, mark in self._letters.items()]
        return (*notes, *(Note("", text) for text in provenance_warnings(self._results)))


def provenance(results: Results, again: str, record: str) -> str:
    """Return the provenance line of each file: command, number of scores and commits. It is the same for the same scores.

    again: the command.  record: the name of the tables' record, which ends in its digest.
    """
    said = f"commit {_shortened(commits)}" if (commits := _commits(results)) else "an unknown commit"
    return f"Made by `{again}` from {len(results.scores)} scores of {said}; see {record}."


def _commits(results: Results) -> list[str]:
    """Return the commits of the code that trained and evaluated, ten hex digits each."""
    code = [c for s in results.scores for c in (s.code, s.trained.get("code") or {})]
    return sorted({str(c["commit"])[:10] for c in code if c.get("commit")})


def provenance_warnings(results: Results) -> list[str]:
    """Return warnings about facts that make the scores less comparable or less reproducible."""
    warnings = []
    code = [(s.code, s.trained.get("code") or {}) for s in results.scores]
    commits = _commits(results)
    if len(commits) > 1:
        warnings.append(f"Made with {len(commits)} commits of the code: {_shortened(commits)}.")
    dirty = sum(any(c.get("dirty") for c in both) for both in code)
    if dirty:
        warnings.append(f"{dirty} of {len(code)} scores were made with uncommitted changes in the code.")
    unsafe = sorted({s.benchmark for s in results.scores if s.unsafe_sandbox})
    if unsafe:
        warnings.append(f"Generated code ran without isolation (unsafe sandbox) in: {', '.join(unsafe)}.")
    for text in sorted({w for s in results.scores for w in s.warnings}):
        where = sorted({s.task for s in results.scores if text in s.warnings})
        warnings.append(f"{', '.join(where)}: {text.strip().rstrip('.')}.")
    for block in results.blocks:
        settings = {s.evaluation for method in results.methods for s in results.cell(block, method)}
        if len(settings) > 1:
            warnings.append(f"{block.task}, {block.benchmark}: not all methods were evaluated with the same settings.")
        ways = {way for method in results.methods for s in results.cell(block, method) if (way := _rounded_way(s.answered))}
        if len(ways) > 1:
            warnings.append(
                f"{block.task}, {block.benchmark}: scores that are compared were answered in different ways, which in low "
                f"precision gives other answers here and there: {'; '.join(sorted(ways))}."
            )
    return warnings


def _rounded_way(answered: Mapping[str, Any]) -> str | None:
    """Describe how low-precision completions were generated; None for float32, where batch size and engine do not matter."""
    precision = [answered.get("dtype", "float32"), answered.get("quantization", "none")]
    if precision == ["float32", "none"]:
        return None
    said = precision[0] if precision[1] == "none" else f"{precision[0]} on {precision[1]} weights"
    engine = f"{answered['engine']}, " if "engine" in answered else ""
    return f"{engine}{answered.get('batch_size')} at a time, {said}, on {answered.get('device')}"


def _seeds(seeds: list[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))}"


def _shortened(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _letters() -> Iterator[str]:
    for length in count(1):
        yield from map("".join, product(ascii_lowercase, repeat=length))
