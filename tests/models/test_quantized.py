"""Bases in 4 and 8 bits, on the processor, for real.

bitsandbytes is loaded in processes of their own, as the command line does for runs that use it; this one stays without.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, causal_task, lora_ns, write_config

from lora_ns.config import check, load_config, merge, read_method, with_method
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run

pytest.importorskip("importlib.util").find_spec("bitsandbytes") or pytest.skip(
    "bitsandbytes is not installed", allow_module_level=True
)

WAYS: dict[str, dict[str, Any]] = {
    "qlora": {"method": "qlora", "model": {}},
    "loftq": {"method": "loftq", "model": {}},
    "dora_4bit": {"method": "dora", "model": {"quantization": "4bit"}},
    "lora_8bit": {"method": "lora", "model": {"quantization": "8bit"}, "training": {"optim": "paged_adamw_8bit"}},
}


def task_file(way: str, model: Path) -> Path:
    given = WAYS[way]
    raw = with_method(causal_task(model), read_method(REPOSITORY / f"configs/methods/{given['method']}.yaml"))
    raw = merge(raw, {"model": given["model"], "training": {"max_steps": 12, **given.get("training", {})}})
    raw["evaluation"] = {"benchmarks": ["gsm8k"], "generation": {"max_new_tokens": 4}}
    raw["method_name"] = way
    check(raw, way)
    return write_config(Path(f"{way}.yaml"), raw)


@pytest.mark.parametrize("way", WAYS)
def test_a_quantised_base_trains_evaluates_and_merges(workplace: Path, tiny_causal: Path, way: str) -> None:
    file = task_file(way, tiny_causal)
    done = lora_ns("evaluate", "--config", str(file))  # trains, saves, loads again, answers
    assert done.returncode == 0, done.stderr
    assert "bitsandbytes" not in done.stderr and "MatMul8bitLt" not in done.stderr
    config, store = load_config(file), Store()
    folder = store.adapter(Run(config, store).name)
    losses = [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert sum(losses[-3:]) < 0.97 * sum(losses[:3]), losses
    saved = json.loads((folder / "adapter_config.json").read_text())
    assert saved["init_lora_weights"] is True, "an adapter of the quantised base as it is"

    merged = lora_ns("merge", "--config", str(file))
    assert merged.returncode == 0, merged.stderr
    record = read_record(Path(merged.stdout.strip()))
    parity = record["parity"]
    assert 0 < parity["max_logit_difference"] < parity["adapter_effect"], "the merge is nearer to the adapter than its base"
    assert f"{parity['max_logit_difference']:.3g}" in merged.stderr
    card = (Path(merged.stdout.strip()) / "README.md").read_text()
    assert "dequantised" in card and f"{parity['max_logit_difference']:.3g}" in card
    settings = json.loads((Path(merged.stdout.strip()) / "config.json").read_text())
    assert "quantization_config" not in settings, "it loads without bitsandbytes"


def test_the_merged_model_of_a_quantised_base_can_be_asked_without_bitsandbytes(workplace: Path, tiny_causal: Path) -> None:
    from transformers import AutoModelForCausalLM

    file = task_file("qlora", tiny_causal)
    merged = lora_ns("merge", "--config", str(file))
    assert merged.returncode == 0, merged.stderr
    model = AutoModelForCausalLM.from_pretrained(merged.stdout.strip())
    assert {str(parameter.dtype) for parameter in model.parameters()} == {"torch.float32"}


def test_loftq_starts_nearer_to_the_unquantised_base_than_the_quantised_one_is(workplace: Path, tiny_causal: Path) -> None:
    """In a process of its own; prints both distances of the logits."""
    import subprocess
    import sys

    code = """
import sys, torch
from pathlib import Path
from lora_ns.config import load_config
from lora_ns.models.adapter import apply_method, without_adapter
from lora_ns.models.base_model import load_base, make_deterministic
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
config = load_config(Path("loftq.yaml"), {"peft": {"r": 16, "lora_dropout": 0.0}})
plain = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "none"})})
ids = torch.arange(5, 25)[None]
make_deterministic(0)
whole = load_base(Run(plain, Store())).eval()
model = apply_method(load_base(Run(config, Store())), config, base_weights=Path(sys.argv[1])).eval()
with torch.no_grad():
    expected = whole(input_ids=ids).logits
    started = (model(input_ids=ids).logits - expected).abs().mean()
    with without_adapter(model):
        rounded = (model(input_ids=ids).logits - expected).abs().mean()
print(float(started), float(rounded))
"""
    task_file("loftq", tiny_causal)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_causal)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    started, rounded = map(float, done.stdout.split())
    assert started < 0.8 * rounded
