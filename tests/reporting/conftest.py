"""The demo's tables, made once."""

from __future__ import annotations

import pytest
from demo_tables import tables_of
from synthetic_scores import demo_scores

from lora_ns.reporting.tables.build import TablesResult


@pytest.fixture(scope="package")
def demo(tmp_path_factory) -> TablesResult:
    return tables_of(tmp_path_factory.mktemp("demo"), demo_scores())
