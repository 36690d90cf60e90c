"""Check before any work that this machine can run a config.  Imports torch only if the config needs the check."""

from importlib.util import find_spec

from lora_ns.config import RunConfig
from lora_ns.config.trackers import missing_trackers
from lora_ns.errors import ConfigError

_OF_BITSANDBYTES = ("8bit", "bnb", "paged_", "lion", "ademamix")
_OF_TORCHAO = ("adamw_torch_8bit", "adamw_torch_4bit")


def uses_bitsandbytes(config: RunConfig) -> bool:
    """Whether weights, optimiser or initialisation need bitsandbytes."""
    optim = config.training.optim
    return (
        config.model.quantization != "none"
        or config.peft.fields.get("init_lora_weights") == "loftq"
        or (any(word in optim for word in _OF_BITSANDBYTES) and optim not in _OF_TORCHAO)
    )


def check_machine(config: RunConfig, *, training: bool = True, backend: str | None = None) -> None:
    """Raises ConfigError that lists everything the config needs and this machine lacks.

    training: include what only training needs (a model may be evaluated on another machine).
    backend: the evaluation's generation backend, if one is to run here.
    """
    problems = _of_the_base(config) + (_of_training(config) if training else [])
    if backend == "vllm" and find_spec("vllm") is None:
        problems.append("evaluation.backend vllm needs vllm, which is not installed here.")
    if problems:
        raise ConfigError([f"this machine cannot run it: {problem}" for problem in problems])


def _of_the_base(config: RunConfig) -> list[str]:
    model, problems = config.model, []
    if model.quantization != "none" and find_spec("bitsandbytes") is None:
        problems.append(f"model.quantization {model.quantization} needs bitsandbytes, which is not installed here.")
    if model.dtype == "bfloat16" and _has_gpu() and not _gpu_has_bfloat16():
        problems.append("model.dtype bfloat16: this machine's GPU cannot compute in it; use float16 or float32.")
    attention = model.attn_implementation or ""
    if attention.startswith("flash_attention"):
        package = {"flash_attention_2": "flash_attn", "flash_attention_3": "flash_attn_interface"}.get(attention)
        if not _has_gpu():
            problems.append(f"model.attn_implementation {attention} needs a GPU, and this machine has none; use sdpa.")
        elif package is not None and find_spec(package) is None and find_spec("kernels") is None:
            problems.append(f"model.attn_implementation {attention} needs {package}, which is not installed here.")
    return problems


def _of_training(config: RunConfig) -> list[str]:
    arguments, optim, problems = config.training.arguments, config.training.optim, []
    loftq = config.peft.fields.get("init_lora_weights") == "loftq"
    if config.model.quantization == "none" and uses_bitsandbytes(config) and find_spec("bitsandbytes") is None:
        what = "peft.init_lora_weights loftq" if loftq else f"training.optim {optim}"
        problems.append(f"{what} needs bitsandbytes, which is not installed here.")
    if optim in _OF_TORCHAO and find_spec("torchao") is None:
        problems.append(f"training.optim {optim} needs torchao, which is not installed here.")
    problems += missing_trackers(config)
    for key in ("fp16", "tf32"):
        if arguments.get(key) and not _has_gpu():
            problems.append(f"training.{key} needs a GPU, and this machine has none; bf16 works without.")
    if loftq and config.model.quantization == "none" and not _has_gpu():
        problems.append(
            "peft.init_lora_weights loftq on an unquantised base is computed by PEFT on a GPU, and this machine has none; "
            "with model.quantization 4bit it is computed anywhere."
        )
    return problems


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpu_has_bfloat16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported()
