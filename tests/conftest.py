"""What many tests stand on: tiny models that are made once, and small sets of rows."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import chdir
from pathlib import Path

import pytest
from support import SHARED_DATA, sums, write_study

from lora_ns.store.run import Run

# the same as the command line does for unquantised runs, and one thread a test process
sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
sys.modules.setdefault("deepspeed", None)  # type: ignore[arg-type]
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"


FIRST = ("slurm", "documents", "workflow")
"""Folders that take longest, a cluster's clock above all; begun first, so that no process waits for another at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first; otherwise as they come."""
    items.sort(key=lambda item: FIRST.index(item.path.parent.name) if item.path.parent.name in FIRST else len(FIRST))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository; tests that want it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip("real data is not beside the repository (../shared/data)")
    return SHARED_DATA


def _tokenizer(folder: Path, *, encoder: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(["Question: what is 3 plus 4?\nAnswer: 7 the cat sat on the mat #### 12"] * 20, trainer)
    from tokenizers import decoders

    core.decoder = decoders.ByteLevel()
    first, last = ("<s>", 2), ("</s>", 3)
    single = "<s> $A </s>" if encoder else "<s> $A"
    core.post_processor = processors.TemplateProcessing(
        single=single, pair="<s> $A </s> $B:1 </s>:1", special_tokens=[first, last]
    )
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    extra = {"cls_token": "<s>", "sep_token": "</s>"} if encoder else {}
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if encoder else ["input_ids", "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=inputs, **names, **extra)
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers, with its tokenizer, as a local folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-causal"
    _tokenizer(folder, encoder=False)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=3,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers, with its tokenizer, as a local folder."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    _tokenizer(folder, encoder=True)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=0,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one, with a small data set in data/sums."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "sums"
    folder.mkdir()
    for split, rows in {"train": sums(40), "test": sums(10, 45)}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory, tiny_causal: Path) -> Path:
    """A folder whose experiment (two methods, two seeds) has run to its tables; not to be changed."""
    from lora_ns.experiment.study import load_experiment
    from lora_ns.reporting.make_tables import tables
    from lora_ns.store.paths import Store
    from lora_ns.workflow.pipeline import make_score

    folder = tmp_path_factory.mktemp("finished") / "study"
    write_study(folder, tiny_causal)
    with chdir(folder):
        store = Store()
        experiment = load_experiment(Path("experiment.yaml"), store)
        for run in experiment.runs:
            for evaluation in run.evaluations:
                make_score(Run(run.config, store), evaluation, quiet=True)
        tables(experiment, store)
    return folder


@pytest.fixture
def study(finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished study as the current folder, which a test may change."""
    copy = tmp_path / "study"
    shutil.copytree(finished_study, copy)
    monkeypatch.chdir(copy)
    return copy
