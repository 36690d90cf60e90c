from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import causal_task, lora_ns, write_config

from lora_ns.config import RunConfig, check
from lora_ns.config import merge as combined
from lora_ns.data.fetch import fetch
from lora_ns.data.tokenization import tokenize
from lora_ns.errors import ConfigError, DamagedError, DataError, LoraNsError
from lora_ns.merging.merge import merge
from lora_ns.models.adapter import load_trained
from lora_ns.store.artifact import read_record
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.training.train import train


def made(config: RunConfig) -> Store:
    store = Store()
    fetch(config.dataset, store)
    tokenize(Run(config, store))
    train(Run(config, store), quiet=True)
    return store


def test_the_merged_model_predicts_what_the_adapter_predicted(workplace: Path, tiny_causal: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = check(causal_task(tiny_causal), "test")
    store = made(config)
    folder = merge(Run(config, store))
    ids = AutoTokenizer.from_pretrained(folder)("What is 3 plus 4?", return_tensors="pt")
    expected = load_trained(Run(config, store), store.adapter(Run(config, store).name)).eval()(**ids).logits
    plain = AutoModelForCausalLM.from_pretrained(folder)(**ids).logits
    base = AutoModelForCausalLM.from_pretrained(tiny_causal)(**ids).logits
    torch.testing.assert_close(plain, expected, atol=1e-4, rtol=1e-4)
    assert (plain - base).abs().max() > 1e-2
    assert 0 <= read_record(folder)["parity"]["max_logit_difference"] < 1e-4


def test_a_method_that_cannot_merge_says_so_and_leaves_nothing(workplace: Path, tiny_causal: Path) -> None:
    config = check(causal_task(tiny_causal, peft={"method": "prompt_tuning", "num_virtual_tokens": 2}), "test")
    store = made(config)
    with pytest.raises(ConfigError, match="prompt_tuning cannot be merged"):
        merge(Run(config, store))
    assert not Run(config, store).merged.exists()


def test_a_merge_that_loses_too_much_fails(workplace: Path, tiny_causal: Path) -> None:
    config = check(causal_task(tiny_causal, merge={"dtype": "bfloat16", "tolerance": 1e-9}), "test")
    store = made(config)
    with pytest.raises(LoraNsError, match="nothing was kept"):
        merge(Run(config, store))
    assert not Run(config, store).merged.exists()


# -- several adapters --------------------------------------------------------------------------------------------------


@pytest.fixture
def two_runs(workplace: Path, tiny_causal: Path) -> tuple[RunConfig, Store, list[str]]:
    """Two adapters of one base, of different ranks."""
    names, store = [], Store()
    for seed, rank in ((0, 4), (1, 2)):
        raw = causal_task(tiny_causal, seed=seed)
        config = check(combined(raw, {"peft": {"r": rank}, "training": {"max_steps": 6}}), "test")
        made(config)
        names.append(Run(config, store).name)
    return check(causal_task(tiny_causal), "test"), store, names


def with_adapters(config: RunConfig, names: list[str], **settings: Any) -> RunConfig:
    adapters = [{"adapter": name, "weight": weight} for name, weight in zip(names, (0.7, 0.4), strict=False)]
    return check({**config.model_dump(), "merge": {"adapters": adapters, **settings}}, "test")


def logits_of(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    with torch.inference_mode():
        return AutoModelForCausalLM.from_pretrained(folder)(torch.arange(5, 25)[None]).logits


def test_a_linear_merge_is_the_weighted_sum_of_the_updates(two_runs: Any, tiny_causal: Path) -> None:
    """Against PEFT's own exact combination, and against the weights by hand."""
    from peft import PeftModel
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    config, store, names = two_runs
    folder = merge(Run(with_adapters(config, names), store))
    assert "linear_of_2" in folder.name
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_causal), str(store.adapter(names[0])), "a")
    model.load_adapter(str(store.adapter(names[1])), "b")
    model.add_weighted_adapter(["a", "b"], [0.7, 0.4], "both", combination_type="cat")
    model.set_adapter("both")
    with torch.inference_mode():
        expected = model(torch.arange(5, 25)[None]).logits
    torch.testing.assert_close(logits_of(folder), expected, atol=1e-5, rtol=1e-5)
    parity = read_record(folder)["parity"]
    assert parity["against"] == "base + adapters, each by its weight" and parity["max_logit_difference"] < 1e-5
    key = "model.layers.0.self_attn.q_proj.weight"
    by_hand = load_file(tiny_causal / "model.safetensors")[key]
    for name, weight, rank in zip(names, (0.7, 0.4), (4, 2), strict=True):
        factors = load_file(store.adapter(name) / "adapter_model.safetensors")
        a, b = (factors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{m}.weight"] for m in "AB")
        by_hand = by_hand + weight * (8 / rank) * b @ a
    torch.testing.assert_close(load_file(folder / "model.safetensors")[key], by_hand, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("combination", ["ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_other_combinations_keep_the_share_that_density_says(two_runs: Any, tiny_causal: Path, combination: str) -> None:
    from safetensors.torch import load_file

    config, store, names = two_runs
    before = load_file(tiny_causal / "model.safetensors")
    changed = {}
    for density in (0.2, 1.0):
        folder = merge(Run(with_adapters(config, names, combination=combination, density=density), store))
        after = load_file(folder / "model.safetensors")
        key = "model.layers.1.mlp.up_proj.weight"
        changed[density] = float((after[key] != before[key]).float().mean())
        assert torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert 0.1 < changed[0.2] < 0.5 < changed[1.0]


def test_ties_at_full_density_keeps_the_sign_that_weighs_more() -> None:
    """Yadav et al. 2023, section 3: elect the sign of each entry, then average those that have it."""
    from lora_ns.config import MergeConfig
    from lora_ns.merging.combine_adapters import combine_updates

    updates = [torch.tensor([3.0, -1.0, 2.0]), torch.tensor([-1.0, -3.0, 2.0])]
    found = combine_updates(updates, torch.tensor([1.0, 1.0]), MergeConfig(combination="ties", density=1.0))
    torch.testing.assert_close(found, torch.tensor([3.0, -2.0, 2.0]))


def test_adapters_by_folder_are_known_by_their_bytes_and_the_same_merge_is_made_once(two_runs: Any) -> None:
    config, store, names = two_runs
    shutil.copytree(store.adapter(names[0]), "elsewhere")
    Path("elsewhere/record.json").unlink()
    first = merge(Run(with_adapters(config, ["./elsewhere", names[1]]), store))
    assert merge(Run(with_adapters(config, ["./elsewhere", names[1]]), store)) == first
    shutil.copy(store.adapter(names[1]) / "adapter_model.safetensors", "elsewhere/adapter_model.safetensors")
    shutil.copy(store.adapter(names[1]) / "adapter_config.json", "elsewhere/adapter_config.json")
    assert merge(Run(with_adapters(config, ["./elsewhere", names[1]]), store)) != first


def test_what_does_not_add_up_is_refused(two_runs: Any, tiny_causal: Path) -> None:
    config, store, names = two_runs
    with pytest.raises(ConfigError, match="neither a run with an adapter nor a folder"):
        merge(Run(with_adapters(config, ["gone", names[0]]), store))
    dora = check(combined(causal_task(tiny_causal), {"peft": {"use_dora": True}}), "test")
    made(dora)
    with pytest.raises(ConfigError, match="merge it alone"):
        merge(Run(with_adapters(config, [names[0], Run(dora, store).name]), store))
    biased = check(combined(causal_task(tiny_causal), {"peft": {"bias": "lora_only"}}), "test")
    made(biased)
    with pytest.raises(ConfigError, match=r"more than add to the weights \(bias\); merge it alone"):
        merge(Run(with_adapters(config, [names[0], Run(biased, store).name]), store))
    prompt = check(causal_task(tiny_causal, peft={"method": "prompt_tuning", "num_virtual_tokens": 2}), "test")
    made(prompt)
    with pytest.raises(ConfigError, match="cannot be merged with one another"):
        merge(Run(with_adapters(config, [names[0], Run(prompt, store).name]), store))


@pytest.mark.parametrize("place", [0, 1])
def test_a_damaged_adapter_is_not_merged_whichever_of_them_it_is(two_runs: Any, place: int) -> None:
    config, store, names = two_runs
    (store.adapter(names[place]) / "record.json").write_text("{}")
    with pytest.raises(DamagedError):
        merge(Run(with_adapters(config, names), store))


def test_an_adapter_of_another_base_is_the_users_mistake(two_runs: Any) -> None:
    from safetensors.torch import load_file, save_file

    config, store, names = two_runs
    shutil.copytree(store.adapter(names[1]), "elsewhere")
    Path("elsewhere/record.json").unlink()
    weights = load_file("elsewhere/adapter_model.safetensors")
    save_file({name: torch.zeros(3, 5) for name in weights}, "elsewhere/adapter_model.safetensors")
    with pytest.raises(DataError, match="the adapter elsewhere cannot be put on"):
        merge(Run(with_adapters(config, [names[0], "./elsewhere"]), store))


# -- what is exported --------------------------------------------------------------------------------------------------


def test_the_folder_has_tokenizer_generation_config_and_a_card_that_says_what_made_it(workplace: Path, tiny_causal: Path) -> None:
    import yaml
    from transformers import AutoTokenizer, GenerationConfig

    config = check(causal_task(tiny_causal), "test")
    store = made(config)
    folder = merge(Run(config, store))
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 3
    card = (folder / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers" and "lora" in head["tags"]
    record = read_record(folder)
    for said in (Run(config, store).name, store.rows(config.dataset).name, "learning_rate", "peft 0."):
        assert said in card
    assert f"{record['parity']['max_logit_difference']:.3g}" in card and str(record["code"]["commit"]) in card
    assert record["parity"]["adapter_effect"] > 1e-3 and record["parity"]["same_choice"] == 1.0


def test_the_command_line_merges_several_into_a_folder_of_ones_own(two_runs: Any, tiny_causal: Path) -> None:
    _, _, names = two_runs
    write_config(Path("task.yaml"), causal_task(tiny_causal))
    words = ["merge", "--config", "task.yaml", "--adapters", f"{names[0]}:0.7", "--adapters", f"{names[1]}:0.4"]
    done = lora_ns(*words, "--combination", "ties", "--density", "0.5", "--output", "./mine")
    assert done.returncode == 0 and done.stdout.strip() == "mine", done.stderr
    assert "a logit differs by up to" in done.stderr
    assert "| combination | ties, density 0.5 |" in Path("mine/README.md").read_text()
    again = lora_ns(*words, "--output", "./mine")
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_a_method_that_cannot_merge_is_refused_before_anything_is_trained(workplace: Path, tiny_causal: Path) -> None:
    write_config(Path("task.yaml"), causal_task(tiny_causal, peft={"method": "prompt_tuning", "num_virtual_tokens": 2}))
    done = lora_ns("merge", "--config", "task.yaml")
    assert done.returncode == 2 and "cannot be merged" in done.stderr
    assert not Path("results").exists() and not Path("data").exists()
