"""What a process does around the imports of others' engines."""

from __future__ import annotations

import gc

from lora_ns.models.imports import USUAL, WHILE_IMPORTING, freeze_imports, prepare_imports


def test_garbage_is_looked_for_seldom_while_importing_and_as_usual_afterwards() -> None:
    for _ in range(2):
        prepare_imports()
        assert gc.get_threshold()[0] == WHILE_IMPORTING
        freeze_imports()
        assert gc.get_threshold() == USUAL
    assert gc.get_freeze_count() > 0
