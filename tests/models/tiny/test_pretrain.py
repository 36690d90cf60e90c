import copy
import hashlib
import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from lora_ns.config.builtin import BASE_MODELS
from lora_ns.data.sources import builtin
from lora_ns.errors import ConfigError, TrainingError
from lora_ns.models.tiny import corpus
from lora_ns.models.tiny.muon import Muon
from lora_ns.models.tiny.pretrain import loss_of, pretrain, pretrain_spec

NAMES = sorted(BASE_MODELS)
CORPORA = {"tiny-llama": corpus.pages, "tiny-bert": corpus.briefs}


def small(name, **training):
    """The specification with far fewer steps and documents."""
    spec = copy.deepcopy(BASE_MODELS[name])
    spec["tokenizer_documents"] = 600
    spec["architecture"] |= {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    spec["training"] |= {"steps": 4, "warmup_steps": 2, "batch_size": 4, **training}
    return spec


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    facts = {name: pretrain_spec(small(name), folder) for name, folder in folders.items()}
    return folders, facts


RECORDED = {"tiny-bert": (3, "aa58fc366283d99a"), "tiny-llama": (2, "4955d04e55b8459c")}


@pytest.mark.parametrize("name", NAMES)
def test_corpus_is_that_recorded_for_this_version(name):
    """Whoever changes the texts bumps the model's version, then this record."""
    documents = list(itertools.islice(CORPORA[name](0), 500))
    digest = hashlib.sha256(repr(documents).encode()).hexdigest()[:16]
    assert (BASE_MODELS[name]["version"], digest) == RECORDED[name]


@pytest.mark.parametrize("name", NAMES)
def test_same_specification_gives_the_same_bytes(name, made, tmp_path):
    torch.manual_seed(123)  # what happened before does not matter
    pretrain_spec(small(name), tmp_path)
    assert checksums(tmp_path) == checksums(made[0][name])


def test_the_encoders_loss_is_that_of_its_own_forward_pass(monkeypatch, tmp_path):
    from lora_ns.models.tiny import pretrain as module

    losses = []

    def both(model, batch):
        losses.append((loss_of(model, batch), model(**batch).loss))
        return losses[-1][0]

    monkeypatch.setattr(module, "loss_of", both)
    pretrain_spec(small("tiny-bert", dropout=0.0), tmp_path)
    for found, wanted in losses:
        torch.testing.assert_close(found, wanted)
    assert len(losses) == 4


def test_seed_changes_the_weights(made, tmp_path):
    pretrain_spec(small("tiny-bert") | {"seed": 1}, tmp_path)
    assert checksums(tmp_path)["model.safetensors"] != checksums(made[0]["tiny-bert"])["model.safetensors"]


def test_pretraining_leaves_random_state_and_threads_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads()
    pretrain_spec(small("tiny-bert", steps=1), tmp_path, threads=before + 1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == before


def test_facts_tell_what_was_done(made):
    facts = made[1]["tiny-llama"]
    assert facts["steps"] == 4
    assert facts["tokens"] == 4 * 4 * BASE_MODELS["tiny-llama"]["training"]["sequence_length"]
    assert 0 < facts["loss"] < 10
    assert facts["seconds"] > 0
    model = AutoModelForCausalLM.from_pretrained(made[0]["tiny-llama"])
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_progress_ends_with_the_last_step(tmp_path):
    seen = []
    pretrain_spec(small("tiny-bert", steps=11), tmp_path, progress=lambda *step: seen.append(step[:2]))
    assert seen == [(10, 11), (11, 11)]


@pytest.mark.parametrize("name", NAMES)
def test_training_lowers_the_loss(name, tmp_path):
    losses = []
    pretrain_spec(small(name, steps=40), tmp_path, progress=lambda step, steps, loss: losses.append(loss))
    assert losses[-1] < losses[0] - 0.5


def test_causal_model_loads_and_generates_from_plain_hugging_face(made):
    folder = made[0]["tiny-llama"]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["Ben has 3 pears.", "def"], return_tensors="pt", padding=True)
    written = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert written.shape[0] == 2
    assert model.config.max_position_embeddings >= 512
    specials = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token}
    assert len(specials) == 4
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer("Ben")["input_ids"][0] == tokenizer.bos_token_id


def test_encoder_loads_for_classification_and_tells_the_sentences_of_a_pair_apart(made):
    folder = made[0]["tiny-bert"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, report = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    batch = tokenizer(["The firm."], ["A boat."], return_tensors="pt")
    ids, types = batch["input_ids"][0].tolist(), batch["token_type_ids"][0].tolist()
    middle = ids.index(tokenizer.sep_token_id)
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert types == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
    assert model(**batch).logits.shape == (1, 2)


@pytest.mark.parametrize("source", ["word_problems", "python_functions"])
def test_causal_tokenizer_gives_back_the_texts_of_the_tasks(source, made):
    tokenizer = AutoTokenizer.from_pretrained(made[0]["tiny-llama"])
    for row in builtin.generate(source, {"num_train": 30})["train"]:
        for text in (row.get("question", row.get("instruction")), row.get("answer", row.get("output"))):
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("prompt", "response"),
    [("Question: How many?\nAnswer:", " Ben has 3+4=7 pears.\n#### 7"), ("Code:", "\ndef f(x):\n    return x")],
)
def test_joint_of_prompt_and_response_is_the_same_whole_or_in_parts(prompt, response, made):
    tokenizer = AutoTokenizer.from_pretrained(made[0]["tiny-llama"])
    parts = [*tokenizer(prompt)["input_ids"], *tokenizer(response, add_special_tokens=False)["input_ids"]]
    assert tokenizer(prompt + response)["input_ids"] == parts


def test_digits_are_tokens_of_their_own(made):
    for folder in made[0].values():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = [tokenizer.decode([token]).strip() for token in tokenizer("12+345")["input_ids"]]
        assert [token for token in tokens if token.isdigit()] == list("12345")


def test_causal_corpus_holds_nothing_of_the_tasks_format():
    for page in itertools.islice(corpus.pages(0), 3000):
        for mark in ("####", "Question:", "Answer:", "Instruction:", "Code:"):
            assert mark not in page


def test_encoder_corpus_shares_no_sentence_with_the_paraphrases():
    briefs = {text for first, second, _ in itertools.islice(corpus.briefs(0), 5000) for text in (first, second)}
    rows = builtin.generate("paraphrase")["test"]
    assert not briefs & {row[column] for row in rows for column in ("sentence1", "sentence2")}


def test_muon_steps_along_orthogonal_matrices():
    parameter = torch.nn.Parameter(torch.zeros(6, 6))
    parameter.grad = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.7, 0.5]))
    Muon([parameter], lr=0.1).step()
    singular_values = torch.linalg.svdvals(parameter.detach())
    assert ((singular_values > 0.05) & (singular_values < 0.13)).all()  # the iteration ends between 0.7 and 1.2 of lr
    assert (parameter.diag() < 0).all()


def test_unknown_base_model_is_named_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'tiny-llama'"):
        pretrain("tiny-lama", tmp_path)
    assert not list(tmp_path.iterdir())


def test_loss_that_is_not_finite_fails(tmp_path):
    with pytest.raises(TrainingError, match="base model"):
        pretrain_spec(small("tiny-llama", adamw_learning_rate=1e30, steps=8), tmp_path)
