"""Input and output files of `lora-ns infer`."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_ns.config.text_files import replace_text
from lora_ns.config.yaml_io import why_unreadable
from lora_ns.errors import ConfigError, DataError

Row = Mapping[str, Any]
Answer = dict[str, Any]


def read_rows(source: Path, columns: Sequence[str]) -> list[Row]:
    """Read rows of a .jsonl file, or lines of a .txt as rows of one column.  Raises DataError naming the line.

    columns: columns that are read; a .txt file allows only one.
    """
    try:
        text = source.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"--input-file: there is no file {source}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--input-file: {source} {why_unreadable(error)}.") from None
    # split at newlines only: splitlines also splits at characters that a text may contain
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"--input-file: {source} holds no rows.")
    if source.suffix == ".txt":
        if len(columns) != 1:
            raise DataError(f"--input-file: {source} has one text a line, and the config reads {', '.join(columns)}; use .jsonl.")
        return [{columns[0]: line.rstrip("\r")} for line in lines]
    if source.suffix not in (".jsonl", ".ndjson"):
        raise DataError(f"--input-file: expected a .jsonl or .txt file, found {source.name}.")
    return [_row(line, f"{source}, row {number}") for number, line in enumerate(lines, start=1)]


def _row(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON: {error}.") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object in braces, found {type(row).__name__}.")
    return row


def output_line(row: Row, answer: Answer, output: Path, columns: Collection[str]) -> str:
    """Return the row with its answer as JSON; for a .txt the answer alone, its line ends written `\\n`.

    columns: columns of all rows. An answer overwrites none of them: beside a column `label` it becomes `predicted_label`.
    """
    if output.suffix != ".txt":
        return json.dumps({**row, **{_free(key, columns): value for key, value in answer.items()}}, ensure_ascii=False)
    value = next(answer[key] for key in ("completion", "completions", "label", "value") if key in answer)
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _free(key: str, columns: Collection[str]) -> str:
    return _free(f"predicted_{key}", columns) if key in columns else key


class PredictionsFile:
    """Journal of answers in `<output>.part`: one line with the digest of the call, then one line for each answer."""

    def __init__(self, output: Path, call: str, *, overwrite: bool):
        """call: digest of everything that the answers depend on.

        Raises ConfigError if the output exists or was begun by a different call.
        """
        self._output, self._path = output, output.with_name(output.name + ".part")
        self.answers: dict[int, Answer] = {}
        if overwrite:
            self._path.unlink(missing_ok=True)
        elif output.exists():
            raise ConfigError(f"--output-file: {output} is there already; --overwrite answers anew.")
        if self._path.is_file():
            self._read(call)
        else:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._append([{"call": call}])
            except OSError as error:
                raise ConfigError(f"--output-file: {output} cannot be written: {error.strerror or error}.") from None

    def _read(self, call: str) -> None:
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # after the last newline is an incomplete line of a killed process
        head, *entries = [json.loads(line) for line in whole.decode().split("\n") if line] or [{"call": call}]
        if head.get("call") != call:
            raise ConfigError(
                f"--output-file: {self._path} was begun with another model, input or settings; --overwrite starts anew."
            )
        self.answers = {entry["row"]: entry["answer"] for entry in entries}
        with self._path.open("r+b") as file:
            file.truncate(len(whole))
        if not whole:
            self._append([head])

    def add(self, answers: Mapping[int, Answer]) -> None:
        """Append answers.  They are on disk when this returns."""
        self.answers.update(answers)
        self._append([{"row": i, "answer": answer} for i, answer in answers.items()])

    def finish(self, lines: Sequence[str]) -> None:
        """Write the output file and delete the partial one."""
        replace_text(self._output, "".join(line + "\n" for line in lines))
        self._path.unlink()

    def _append(self, entries: Sequence[Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
            file.flush()
            os.fsync(file.fileno())
