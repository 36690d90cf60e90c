"""docs/how_to/carry_on.md follows a config and a row through functions that exist, and never goes back to a later room."""

from __future__ import annotations

import importlib
import re

from house import ROOMS, imports
from support import REPOSITORY

PAGE = (REPOSITORY / "docs/how_to/carry_on.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def room_of(name: str) -> int:
    return ROOMS.index(name.split(".")[0])


def check_exists(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(f"lora_ns.{module}"), attribute), name


def test_a_function_of_the_configs_way_calls_into_its_own_room_or_an_earlier_one() -> None:
    lines = re.findall(r"^( *)- `([\w.]+)`", section("The way of a config"), re.M)
    assert len(lines) > 10
    above: list[str] = []
    for indent, name in lines:
        check_exists(name)
        above[len(indent) // 2 :] = [name]
        assert len(above) < 2 or room_of(above[-1]) <= room_of(above[-2]), f"{above[-2]} calls {name}"


def test_a_row_takes_at_most_twelve_steps_and_never_goes_back() -> None:
    steps = re.findall(r"^\d+\. `([\w.]+)`", section("The way of a row"), re.M)
    assert 1 < len(steps) <= 12
    for name in steps:
        check_exists(name)
    rooms = [room_of(name) for name in steps]
    assert rooms == sorted(rooms)


def test_the_files_and_names_of_the_table_are_there() -> None:
    table = section("Where a new part goes")
    for path in re.findall(r"`((?:tests|docs|src)/[\w./]*)`", table):
        assert (REPOSITORY / path).exists(), path
    for path in re.findall(r"`((?:benchmarks|config|data|evaluation|reporting|cli)/[\w./]*)`", table):
        assert (REPOSITORY / "src/lora_ns" / path).exists(), path


def test_the_picture_counts_no_import_above_its_diagonal() -> None:
    found = imports()
    assert found["cli", "workflow"] > 0
    assert all(ROOMS.index(used) < ROOMS.index(room) for room, used in found)
