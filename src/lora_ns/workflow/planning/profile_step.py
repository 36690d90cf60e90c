"""What one training step takes, found by running it on tensors without content.

The model is built from its config on the meta device, so no weight is loaded and no memory taken; then one step (forward,
backward, clipping, optimiser) runs on fake tensors.  Every storage that comes and goes is counted, so whatever an
architecture or a method does shows, without a formula for each.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lora_ns.benchmarks import Kind
from lora_ns.config import RunConfig
from lora_ns.config.method_constraints import takes_out_of_base
from lora_ns.data.collator import Batch, collate_of
from lora_ns.models.adapter import apply_method, count_parameters
from lora_ns.training.setup import Setup, set_up
from lora_ns.workflow.planning.fake_trace import FakeTrace
from lora_ns.workflow.planning.footprint import AnswerFootprint, Kernels, StepFootprint
from lora_ns.workflow.planning.workload import Shape

QUANTIZED_BYTES = {"4bit": 0.5 + 1 / 64 + 4 / (64 * 256), "8bit": 1.0}
"""Bytes per quantised weight: NF4 with one 8-bit scale per 64 weights and one float32 per 256 scales (Dettmers et al. 2023,
arXiv 2305.14314, section 3), or LLM.int8."""


def trace_step(model: Any, config: RunConfig, shape: Shape) -> StepFootprint:
    """Trace one step of a base model from `model_without_weights` with the config's method applied.

    Raises ConfigError if the method does not fit the model.
    """
    setup = set_up_step(model, config)
    model, batch = setup.model, _batch(setup, config, shape)
    loss = setup.loss(config)
    trained = [p for p in model.parameters() if p.requires_grad]
    adapter = sum(p.numel() * p.element_size() for p in trained)
    with _on_fake_tensors(model, config, shape) as (trace, saved):
        weights, large = trace.live, trace.large
        _loss(setup.model, loss, batch, config, shape, _checkpoints(config)).backward()
        forward_backward = Counter(trace.kernels)
        optimizer = _update(model, config)
        update = trace.kernels - forward_backward
        peak, large_at_peak = trace.peak, trace.large_at_peak
        if _checkpoints(config):
            _loss(setup.model, loss, batch, config, shape, checkpointing=False).backward()
        unchecked = trace.peak
    return StepFootprint(
        trainable=setup.parameters["trainable"],
        total=setup.parameters["total"],
        weights=weights - saved,
        peak=peak - saved,
        large=large_at_peak - large,
        unchecked=unchecked - saved,
        adapter=adapter,
        gradients=adapter,
        optimizer=optimizer,
        forward_backward=_listed(forward_backward),
        update=_listed(update),
    )


def set_up_step(base: Any, config: RunConfig) -> Setup:
    """Return the run's own training set-up, without quantisation or an initialisation that reads weights or rows."""
    return set_up(_plain(config), base, collate_of(config, cast(Any, SimpleNamespace(pad_token_id=0))), steps=1000)


def trace_answer(model: Any, config: RunConfig, shape: Shape, kind: Kind) -> AnswerFootprint:
    """Trace one evaluation batch of a base model from `model_without_weights` with the config's method applied."""
    cache = _cache_per_token(model)
    model = apply_method(model, _plain(config), steps=1000).eval()
    trainable, total = count_parameters(model)
    with _on_fake_tensors(model, config, shape) as (trace, saved), torch.no_grad():
        weights, large = trace.live, trace.large
        _ask(model, shape, kind)
    return AnswerFootprint(
        trainable=trainable,
        total=total,
        weights=weights - saved,
        peak=trace.peak - saved,
        large=trace.large_at_peak - large,
        cache_per_token=cache,
        forward=_listed(trace.kernels),
    )


@contextmanager
def _on_fake_tensors(model: Any, config: RunConfig, shape: Shape) -> Iterator[tuple[FakeTrace, int]]:
    """Yield (trace that already counts the model's storages, bytes that quantisation saves)."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        _onto_processor(model)
        trace = FakeTrace(chosen=shape.supervised)
        for tensor in (*model.parameters(), *model.buffers()):
            trace.note(tensor)
        with trace:
            yield trace, _saved_by_quantization(model, config)


def _listed(kernels: Counter[tuple[int, int]]) -> Kernels:
    return tuple((flops, moved, calls) for (flops, moved), calls in sorted(kernels.items()))


def _plain(config: RunConfig) -> RunConfig:
    """Return the config without quantisation or an initialisation that reads weights or rows. Adapter sizes do not change."""
    fields = config.peft.model_dump()
    init = fields.get("init_lora_weights")
    if takes_out_of_base(init) or init in ("eva", "loftq"):
        fields = {key: value for key, value in fields.items() if key not in ("eva_config", "corda_config", "loftq_config")}
        fields["init_lora_weights"] = True
    peft = type(config.peft).model_validate(fields)
    model = config.model.model_copy(update={"quantization": "none"})
    return config.model_copy(update={"peft": peft, "model": model})


def _onto_processor(model: Any) -> None:
    """Replace each parameter and buffer with a fake CPU tensor. Tied weights stay tied."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                if id(buffer) not in made:
                    made[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype)
                module._buffers[name] = made[id(buffer)]


def _saved_by_quantization(model: Any, config: RunConfig) -> int:
    """Bytes that quantisation saves, compared with the unquantised model that is traced.

    PEFT's preparation casts the rest (embeddings, norms, head) to float32, which is subtracted.
    """
    if config.model.quantization == "none":
        return 0
    each = QUANTIZED_BYTES[config.model.quantization]
    head = model.get_output_embeddings() if config.task_type == "causal_lm" else None
    linear = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and not module.weight.requires_grad and module is not head
    }
    saving = sum(w.numel() * (w.element_size() - each) for w in linear.values())
    rest = [p for p in model.parameters() if id(p) not in linear and not p.requires_grad]
    return int(saving - sum(p.numel() * (4 - p.element_size()) for p in rest))


def _cache_per_token(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0) or 0
    size = getattr(config, "head_dim", None) or getattr(config, "hidden_size", 0) // max(1, heads)
    heads = getattr(config, "num_key_value_heads", None) or heads
    return 2 * getattr(config, "num_hidden_layers", 0) * heads * size * model.dtype.itemsize * model.can_generate()


def _batch(setup: Setup, config: RunConfig, shape: Shape) -> Batch:
    """Return one micro-batch of token 0. The last positions of each row carry loss."""
    each, more = divmod(shape.supervised, shape.rows)
    rows: list[dict[str, Any]] = [{"input_ids": [0] * shape.length, "label": 0} for _ in range(shape.rows)]
    for number, row in enumerate(rows):
        supervised = min(each + (number < more), shape.length - 1)
        row["spans"] = [shape.length - supervised, shape.length]
    return setup.collate(rows)


def _loss(model: Any, loss: Any, batch: Batch, config: RunConfig, shape: Shape, checkpointing: bool) -> Any:
    """Return the loss of one micro-batch, with or without gradient checkpointing."""
    model.train()
    (model.activation_checkpointing_enable if checkpointing else model.activation_checkpointing_disable)()
    with _precision(config):
        return loss(model, batch).values.sum() / shape.supervised


def _checkpoints(config: RunConfig) -> bool:
    return bool(config.training.arguments.get("gradient_checkpointing"))


def _update(model: Any, config: RunConfig) -> int:
    """Clip gradients and do one optimiser step; returns the bytes of the optimiser state."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.training.max_grad_norm:
        torch.nn.utils.clip_grad_norm_(trained, config.training.max_grad_norm)
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    optimizer.step()
    optimizer.zero_grad()
    tensors = (value for kept in optimizer.state.values() for value in kept.values())
    state = sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))
    return int(state * _share_of_adamw(config.training.optim))


def _share_of_adamw(optim: str) -> float:
    """Size of the optimiser state relative to AdamW's, which holds two numbers per weight."""
    if "8bit" in optim:
        return 0.25
    if "4bit" in optim:
        return 0.125
    if optim.startswith(("sgd", "adafactor")):
        return 0.0
    return 0.5 if "lion" in optim else 1.0


def _ask(model: Any, shape: Shape, kind: Kind) -> None:
    """Run one forward pass as lora_ns.evaluation does for this kind of benchmark."""
    if kind == "generation":
        model(**_inputs(shape), use_cache=True, logits_to_keep=1)
    elif kind in ("choice", "perplexity"):
        model(**_inputs(shape)).logits[:, :-1].float().log_softmax(-1)
    else:
        model(**_inputs(shape))


def _inputs(shape: Shape) -> dict[str, Any]:
    ids = torch.zeros(shape.rows, shape.length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _precision(config: RunConfig) -> AbstractContextManager[Any]:
    for key, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if config.training.arguments.get(key):
            return torch.autocast("cpu", dtype=dtype)
    return nullcontext()
