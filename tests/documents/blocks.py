"""The command blocks of a page, run line by line in a clone.

A line `lora-ns …` runs in this process, which has torch loaded already; all else is the shell's.  That `lora-ns` is also a
program is for tests/cli to show.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from support import run_in

from lora_ns.cli import main

BLOCK = re.compile(r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```bash\n(?P<block>.*?)^```", re.M | re.S)
_HEREDOC = re.compile(r"<<-?'?(\w+)'?")
_OURS = re.compile(r"^(?:\.venv/bin/)?lora-ns (?P<words>[^|;&]*?)(?:\s+>\s*(?P<file>\S+))?$")


@dataclass(frozen=True)
class Done:
    """What became of a command."""

    command: str
    status: int
    out: str
    err: str


def blocks(page: Path) -> list[str]:
    """The page's command blocks that run, in their order."""
    return [found["block"] for found in BLOCK.finditer(page.read_text(encoding="utf-8")) if not found["reason"]]


def commands(block: str) -> Iterator[str]:
    """The commands of a block: its lines, those that belong together (continued, quoted, or a text handed over) as one."""
    lines = iter(block.splitlines())
    for line in lines:
        command = [line]
        end = _HEREDOC.search(line)
        while (command[-1] != end[1]) if end else _goes_on("\n".join(command)):
            command.append(next(lines))
        if line.strip() and not line.startswith("#"):
            yield "\n".join(command)


def _goes_on(command: str) -> bool:
    return command.endswith("\\") or command.count("'") % 2 == 1


def run_command(clone: Path, command: str) -> Done:
    """One command, in the clone as the current folder."""
    plain = re.sub(r"\s+#\s.*$", "", command).replace("\\\n", " ").strip()
    ours = _OURS.match(plain)
    if ours is None:
        done = run_in(clone, command)
        return Done(command, done.returncode, done.stdout, done.stderr)
    out, err = StringIO(), StringIO()
    before, sys.argv = sys.argv, ["lora-ns", *_words(clone, ours["words"])]
    status = 0
    try:
        with chdir(clone), redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = before
    if ours["file"]:
        (clone / ours["file"]).write_text(out.getvalue(), encoding="utf-8")
    return Done(command, status, out.getvalue(), err.getvalue())


def _words(clone: Path, text: str) -> list[str]:
    """The words of a command as the shell would hand them over: quotes taken off, patterns filled in."""
    said = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], cwd=clone, capture_output=True, text=True, check=True).stdout
    return said.split("\0")[:-1]


def run_page(clone: Path, page: Path) -> list[Done]:
    """Every command of the page, each of which has to succeed."""
    found = []
    for block in blocks(page):
        for command in commands(block):
            done = run_command(clone, command)
            assert done.status == 0, f"{page.name}: {command}\n{done.out}{done.err}"
            found.append(done)
    return found
