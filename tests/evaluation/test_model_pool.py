"""Several runs evaluated in one process, and one run in several processes: each score is what one alone comes to."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import causal_task, lora_ns, sums, write_config

from lora_ns.cli import main
from lora_ns.config import RunConfig, check
from lora_ns.evaluation.distributed import spread
from lora_ns.evaluation.model_pool import BaseModelPool, fingerprint
from lora_ns.experiment.divergence import keep_divergence
from lora_ns.store.evaluation_file import EvaluationRequest, write_evaluation_file
from lora_ns.store.paths import Store
from lora_ns.store.run import Run
from lora_ns.workflow.pipeline import make_adapter, make_scores

ALL_LINEAR = {"r": 2, "target_modules": "all-linear"}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", **ALL_LINEAR},
    "dora": {"method": "lora", "use_dora": True, **ALL_LINEAR},
    "lora_and_embedding": {"method": "lora", "modules_to_save": ["embed_tokens"], **ALL_LINEAR},
    "ln_tuning": {"method": "ln_tuning"},
    "ia3": {"method": "ia3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "oft": {"method": "oft", "oft_block_size": 8, "r": 0, "target_modules": ["q_proj", "v_proj"]},
    "prompt_tuning": {"method": "prompt_tuning", "num_virtual_tokens": 3},
    "prefix_tuning": {"method": "prefix_tuning", "num_virtual_tokens": 3},
    "full": {"method": "full"},
    "none": {"method": "none"},
}


def run_of(model: Path, method: str, seed: int = 0) -> RunConfig:
    content = {**causal_task(model), "peft": METHODS[method], "seed": seed}
    return check(content, "test")


def evaluation_of(config: RunConfig) -> EvaluationRequest:
    return Run(config, Store()).evaluation(config.evaluation.benchmarks[0])


def kept(run: str, evaluation: EvaluationRequest) -> tuple[bytes, dict[str, Any]]:
    """(predictions, score) but for what varies when the same is done again."""
    store = Store()
    score = json.loads(store.score(run, evaluation.name).read_text())
    varying = ("circumstances", "cost", "seal", "trained")
    return store.predictions(run, evaluation.name).read_bytes(), {k: v for k, v in score.items() if k not in varying}


def test_each_run_scores_as_if_it_were_alone_whoever_was_on_the_base_before(workplace: Path, tiny_causal: Path) -> None:
    """Every kind of adapter, twice over with others between; predictions and scores compared byte for byte."""
    configs = [run_of(tiny_causal, method) for method in METHODS]
    store, evaluation = Store(), evaluation_of(configs[0])
    runs = [Run(config, store).name for config in configs]
    alone = {}
    for config, run in zip(configs, runs, strict=True):
        assert not isinstance(make_scores([Run(config, store)], evaluation, quiet=True)[run], Exception)
        alone[run] = kept(run, evaluation)
    for order in (configs, configs[::-1]):
        shutil.rmtree("results/scores")
        shutil.rmtree("results/predictions")
        found = make_scores([Run(config, store) for config in order], evaluation, quiet=True)
        assert list(found) == [Run(config, store).name for config in order]
        for run in runs:
            assert found[run] == store.score(run, evaluation.name)
            assert kept(run, evaluation) == alone[run]
    assert len({predictions for predictions, _ in alone.values()}) > 5


def test_a_base_is_read_once_for_all_runs_that_leave_it_as_it_was(workplace: Path, tiny_causal: Path) -> None:
    configs = [run_of(tiny_causal, method, seed) for seed in (0, 1) for method in ("lora", "dora", "ia3", "none")]
    bases = BaseModelPool(Store())
    found = make_scores([Run(config, Store()) for config in configs], evaluation_of(configs[0]), quiet=True, bases=bases)
    assert len(found) == 8 and bases.loads == 1


def test_a_base_that_an_adapter_has_changed_is_read_anew(workplace: Path, tiny_causal: Path) -> None:
    import torch

    first, second = (Run(run_of(tiny_causal, method), Store()) for method in ("lora", "ia3"))
    for run in (first, second):
        make_adapter(run, quiet=True)
    bases, ids = BaseModelPool(Store()), torch.tensor([[5, 6, 7]])
    with bases.trained(second, "cpu") as model:
        expected = model(input_ids=ids).logits
    with bases.trained(first, "cpu") as model:
        model.get_base_model().model.norm.weight.data.mul_(2)
    with bases.trained(second, "cpu") as model:
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert bases.loads == 2


@pytest.mark.parametrize("change", ["a weight", "two weights swapped", "a hook", "a forward of its own", "a setting"])
def test_a_fingerprint_tells_every_change_that_answers_hang_on(change: str, tiny_causal: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_causal)
    before, layer = fingerprint(model), model.model.layers[0].mlp.up_proj
    assert fingerprint(model) == before
    if change == "a weight":
        layer.weight.data[3, 4] += 1e-6
    elif change == "two weights swapped":
        layer.weight.data[[3, 4]] = layer.weight.data[[4, 3]]
    elif change == "a hook":
        layer.register_forward_hook(lambda *_: None)
    elif change == "a forward of its own":
        layer.forward = torch.nn.Identity().forward
    else:
        model.config.use_cache = False
    assert fingerprint(model) != before


def test_a_run_that_fails_stops_no_other_and_is_noted(workplace: Path, tiny_causal: Path) -> None:
    broken, good = run_of(tiny_causal, "lora"), run_of(tiny_causal, "ia3")
    store, evaluation = Store(), evaluation_of(run_of(tiny_causal, "lora"))
    folder = make_adapter(Run(broken, store), quiet=True)
    (folder / "adapter_config.json").write_text("{}")
    found = make_scores([Run(broken, store), Run(good, store)], evaluation, quiet=True)
    reason = found[Run(broken, store).name]
    assert found[Run(good, store).name] == store.score(Run(good, store).name, evaluation.name)
    assert isinstance(reason, Exception) and not store.score(Run(broken, store).name, evaluation.name).exists()
    assert json.loads(store.failure(Run(broken, store).name).read_text())["reason"] == str(reason)
    assert not store.failure(Run(good, store).name).exists()


def test_a_diverged_trial_among_others_is_refused_alone(workplace: Path, tiny_causal: Path) -> None:
    diverged, good = run_of(tiny_causal, "lora"), run_of(tiny_causal, "none")
    store = Store()
    keep_divergence(Run(diverged, store), "the loss was nan at step 2")
    found = make_scores([Run(diverged, store), Run(good, store)], evaluation_of(good), quiet=True)
    assert "the loss was nan at step 2" in str(found[Run(diverged, store).name])
    assert isinstance(found[Run(good, store).name], Path)


def test_the_command_line_evaluates_several_configs_and_says_which_failed(workplace: Path, tiny_causal: Path) -> None:
    paths = {}
    for method in ("lora", "ia3", "none"):
        write_config(Path(f"{method}.yaml"), {**causal_task(tiny_causal), "peft": METHODS[method]})
        paths[method] = Path(f"{method}.yaml")
    store, good = Store(), run_of(tiny_causal, "lora")
    evaluation = write_evaluation_file(evaluation_of(good), store)
    words = [word for path in paths.values() for word in ("--config", str(path))]
    done = lora_ns("evaluate", "--evaluation", str(evaluation), *words)
    assert done.returncode == 0, done.stderr
    scores = [line for line in done.stdout.splitlines() if line.endswith(".json")]
    assert scores == [str(store.score(Run(run_of(tiny_causal, m), store).name, evaluation.stem)) for m in paths]
    for path in scores[:2]:
        Path(path).unlink()
    (store.adapter(Run(good, store).name) / "adapter_config.json").write_text("{}")
    again = lora_ns("evaluate", "--evaluation", str(evaluation), *words)
    assert again.returncode == 1 and "1 of 3 scores could not be made" in again.stderr
    assert Run(good, store).name in again.stderr and Path(scores[1]).is_file() and not Path(scores[0]).exists()


# -- several processes -----------------------------------------------------------------------------------------------------


def in_two_processes(work: Callable[[], None]) -> tuple[list[int | None], str, str]:
    """(exit statuses, stdout and stderr of both) of work that a launcher of torch.distributed has started twice."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    around = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}

    def start(rank: int) -> None:
        os.environ.update({**around, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        with Path(f"out{rank}").open("w") as out, Path(f"err{rank}").open("w") as err:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = out, err
            work()

    forked = multiprocessing.get_context("fork")  # everything is imported already
    processes = [forked.Process(target=start, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()
    out, err = ("".join(Path(f"{kind}{rank}").read_text() for rank in range(2)) for kind in ("out", "err"))
    return [process.exitcode for process in processes], out, err


def evaluate_in_two_processes(config: str) -> tuple[list[int | None], str, str]:
    def work() -> None:
        sys.argv = ["lora-ns", "evaluate", "--config", config]
        main()

    return in_two_processes(work)


def test_each_number_is_asked_in_one_process_and_all_know_all_answers(workplace: Path) -> None:
    def work() -> None:
        asked: list[int] = []

        def answer(places: list[int]) -> list[str]:
            asked.extend(places)
            return [f"answer {place}" for place in places]

        print(json.dumps([asked, spread(7, answer)]))

    statuses, said, errors = in_two_processes(work)
    assert statuses == [0, 0], errors
    (first, answers), (second, same) = (json.loads(line) for line in said.splitlines())
    assert sorted([*first, *second]) == list(range(7)) and min(len(first), len(second)) == 3
    assert answers == same == [f"answer {place}" for place in range(7)]


def test_two_processes_answer_each_row_once_and_come_to_the_same_score(workplace: Path, tiny_causal: Path) -> None:
    """Generated text, drawn text, and likelihoods of an odd number of rows."""
    Path("sums/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sums(9, 45)))
    drawing = {"do_sample": True, "num_samples": 2, "temperature": 1.5, "max_new_tokens": 6}
    benchmarks = ["gsm8k", {"name": "regex", "settings": {"pattern": "a"}, "generation": drawing}, "perplexity"]
    content = causal_task(tiny_causal, evaluation={"benchmarks": benchmarks})
    write_config(Path("task.yaml"), content)
    config, store = check(content, "test"), Store()
    make_adapter(Run(config, store), quiet=True)
    statuses, said, errors = evaluate_in_two_processes("task.yaml")
    assert statuses == [0, 0], errors
    assert said.count(".json") == 3, "one process speaks"
    run = Run(config, store).name
    evaluations = [Run(config, store).evaluation(entry) for entry in config.evaluation.benchmarks]
    together = [kept(run, evaluation) for evaluation in evaluations]
    shutil.rmtree("results/scores")
    for evaluation, found in zip(evaluations, together, strict=True):
        make_scores([Run(config, store)], evaluation, quiet=True)
        assert kept(run, evaluation) == found


def test_what_fails_in_one_process_fails_in_all(workplace: Path, tiny_causal: Path) -> None:
    """The last row cannot be measured, and belongs to one of two processes."""
    rows = [*sums(3), {"question": "?", "answer": " "}]
    Path("sums/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = causal_task(tiny_causal, peft={"method": "none"}, evaluation={"benchmarks": ["perplexity"]})
    write_config(Path("task.yaml"), content)
    config, store = check(content, "test"), Store()
    make_adapter(Run(config, store), quiet=True)
    statuses, _, errors = evaluate_in_two_processes("task.yaml")
    assert statuses == [2, 2] and errors.count("has nothing to measure") == 2
    assert "has nothing to measure" in json.loads(store.failure(Run(config, store).name).read_text())["reason"]
