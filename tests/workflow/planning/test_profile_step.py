"""One step on tensors without content, against the same step in earnest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from support import REPOSITORY, causal_task, write_config

from lora_ns.config import RunConfig, check, load_config
from lora_ns.errors import ConfigError
from lora_ns.models.adapter import count_parameters
from lora_ns.models.base_model import load_base
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.planning.architecture import model_without_weights
from lora_ns.workflow.planning.fake_trace import FakeTrace
from lora_ns.workflow.planning.profile_step import set_up_step, trace_answer, trace_step
from lora_ns.workflow.planning.workload import Shape

SHAPE = Shape(rows=4, length=32, supervised=40)
LORA = {"method": "lora", "r": 4, "target_modules": "all-linear"}


def _config(model: Path | str, peft: dict[str, object] = LORA, **training: object) -> RunConfig:
    return check({**causal_task(model), "peft": peft, "training": {"learning_rate": 1e-3, **training}}, "task")


@pytest.fixture(scope="module")
def architecture(tiny_causal: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's folder without its weights."""
    folder = tmp_path_factory.mktemp("architecture") / "model"
    shutil.copytree(tiny_causal, folder)
    (folder / "model.safetensors").unlink()
    return folder


def _step(config: RunConfig, shape: Shape = SHAPE):  # type: ignore[no-untyped-def]
    return trace_step(model_without_weights(Run(config, Store())), config, shape)


@pytest.mark.parametrize(
    ("peft", "training"),
    [
        (LORA, {}),
        (LORA, {"gradient_checkpointing": True}),
        ({**LORA, "use_dora": True}, {}),
        ({"method": "prefix_tuning", "num_virtual_tokens": 3}, {}),
        ({"method": "full"}, {}),
    ],
    ids=["lora", "checkpointing", "dora", "prefix", "full"],
)
def test_the_peak_is_that_of_the_same_step_on_the_loaded_model(
    tiny_causal: Path, architecture: Path, peft: dict[str, object], training: dict[str, object]
) -> None:
    predicted = _step(_config(architecture, peft, **training))
    config = _config(tiny_causal, peft, **training)
    setup = set_up_step(load_base(Run(config, Store())), config)
    model, loss = setup.model, setup.loss(config)
    assert (predicted.trainable, predicted.total) == count_parameters(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    trace = FakeTrace()
    for tensor in (*model.parameters(), *model.buffers()):
        trace.note(tensor)
    assert predicted.weights == trace.live
    model.train()
    if training:
        model.activation_checkpointing_enable()
    spans = [SHAPE.length - SHAPE.supervised // SHAPE.rows, SHAPE.length]
    batch = setup.collate([{"input_ids": [0] * SHAPE.length, "spans": spans}] * SHAPE.rows)
    with trace:
        (loss(model, batch).values.sum() / SHAPE.supervised).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer = torch.optim.AdamW(trained)
        optimizer.step()
    assert predicted.peak == pytest.approx(trace.peak, rel=0.05)
    state = [t for kept in optimizer.state.values() for t in kept.values()]
    assert predicted.optimizer == sum(t.numel() * t.element_size() for t in state)
    assert predicted.adapter == predicted.gradients == 4 * predicted.trainable


@pytest.mark.parametrize("method", ["vera", "ia3", "loha", "oft", "fourierft", "p_tuning", "pissa", "eva"])
def test_ready_methods_are_traced_without_weights(architecture: Path, tmp_path: Path, method: str) -> None:
    task = write_config(tmp_path / "task.yaml", causal_task(architecture))
    config = load_config(task, {}, REPOSITORY / f"configs/methods/{method}.yaml")
    step = _step(config)
    assert 0 < step.trainable < step.total and step.peak > step.weights + step.gradients + step.optimizer
    assert sum(flops * calls for flops, _, calls in step.forward_backward) > 0


def test_what_makes_a_step_smaller_and_larger(architecture: Path) -> None:
    plain = _step(_config(architecture))
    lean = _step(_config(architecture, gradient_checkpointing=True))
    assert lean.activations < plain.activations and plain.unchecked == plain.peak
    assert lean.peak < lean.unchecked == pytest.approx(plain.peak, rel=0.05)
    assert lean.update == plain.update
    assert _step(_config(architecture), Shape(8, 32, 80)).activations > 1.8 * plain.activations
    assert _step(_config(architecture), Shape(4, 32, 120)).activations > plain.activations
    assert _step(_config(architecture, optim="lion_32bit")).optimizer < plain.optimizer
    quantized = check({**causal_task(architecture), "model": {"name_or_path": str(architecture), "quantization": "4bit"}}, "task")
    assert _step(quantized).weights < plain.weights


def test_an_answer_knows_its_keys_and_values_and_that_generation_needs_one_position(architecture: Path) -> None:
    config = _config(architecture)
    model = lambda: model_without_weights(Run(config, Store()))  # noqa: E731
    asked = trace_answer(model(), config, SHAPE, "generation")
    assert asked.cache_per_token == 2 * 2 * 4 * 8 * 4  # keys and values, layers, heads, size, float32
    whole = trace_answer(model(), config, SHAPE, "perplexity")
    logits = 4 * SHAPE.rows * 400  # of one position
    assert whole.peak >= whole.weights + (2 * SHAPE.length - 1) * logits > asked.peak  # and their log-softmax


def test_a_builtin_model_needs_not_be_made_yet(workplace: Path) -> None:
    config = check({**causal_task("builtin:tiny-llama"), "peft": LORA}, "task")
    assert _step(config).total > 700_000 and not Path("data").exists()


def test_a_model_whose_config_is_not_to_be_had_is_named(workplace: Path) -> None:
    config = _config("nobody/nothing")
    with pytest.raises(ConfigError, match="nobody/nothing is not to be had"):
        _step(config)
