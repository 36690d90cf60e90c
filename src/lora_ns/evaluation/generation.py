"""Text generation: chooses engine and batch size.  On out-of-memory the batch is halved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_ns.config import GenerationConfig
from lora_ns.errors import DataError, EvaluationError
from lora_ns.evaluation.batch_size import halving, slots_that_fit
from lora_ns.evaluation.engines.continuous import ContinuousEngine
from lora_ns.evaluation.engines.decoding import Decoder, TokenSequence
from lora_ns.evaluation.engines.hf_generate import HFGenerateEngine
from lora_ns.evaluation.engines.vllm import ServedModel, VLLMEngine
from lora_ns.models.base_model import without_peft

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ENGINES = {ContinuousEngine: "continuous", HFGenerateEngine: "generate", VLLMEngine: "vllm"}

Progress = Callable[[int], None]


class Generator:
    """A causal model prepared for generation.

    stop_ids: tokens that end an answer beside the end of sequence (a chat template's end of turn).  backend: one of
    `evaluation.backend`.  size: answers at a time; None: as many as pay and fit.  streamer: is handed each token of a
    single answer as it comes.  served: the model as vLLM is told of it, for that backend.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        config: GenerationConfig,
        *,
        stop_ids: Sequence[int] = (),
        backend: str = "auto",
        size: int | None = None,
        streamer: Any = None,
        served: ServedModel | None = None,
    ):
        self._model = model
        self._backend = backend
        self._size = size
        self._streamer = streamer
        self._served = served
        plain = without_peft(model)
        ends = {tokenizer.eos_token_id, *_as_list(plain.config.eos_token_id), *stop_ids} - {None}
        self.decoder = Decoder(tokenizer, config, frozenset(ends))
        self.facts: dict[str, Any] = {}
        """Facts of the last call: engine, batch_size, and the reasons for them."""

    def texts(
        self, prompt_ids: Sequence[Sequence[int]], keys: Sequence[str], progress: Progress = lambda done: None
    ) -> list[list[str]]:
        """Return num_samples completions of each prompt, cut at stop texts and end tokens, in the order of the prompts.

        keys: the examples' ids; sampling depends on them and the seed.  Raises DataError for an empty prompt.
        """
        for ids, key in zip(prompt_ids, keys, strict=True):
            if not ids:
                raise DataError(f"the prompt of row {key} has no tokens: there is nothing to go on from.")
        samples = self.decoder.config.num_samples
        pairs = list(zip(prompt_ids, keys, strict=True))
        answers = [[TokenSequence(ids, f"{key} {number}") for number in range(samples)] for ids, key in pairs]
        self._run([answer for of_prompt in answers for answer in of_prompt], count_examples(samples, progress))
        return [[self.decoder.text(answer) for answer in of_prompt] for of_prompt in answers]

    def _run(self, answers: Sequence[TokenSequence], done: Callable[[TokenSequence], None]) -> None:
        """Complete all sequences.  Raises EvaluationError if even batch size 1 does not fit into memory."""
        if not answers:
            return
        engine, reason = self._engine(answers)
        size = self._size or slots_that_fit(self._model, answers, self.decoder.config.max_new_tokens)
        self.facts = {"engine": ENGINES[type(engine)], **({"because": reason} if reason else {})}

        def attempt(size: int) -> None:
            left = [answer for answer in answers if not answer.ended]
            for answer in left:
                answer.begin_again()
            engine.answer(left, size, done)

        self.facts |= halving(attempt, min(size, len(answers)))

    def _engine(self, answers: Sequence[TokenSequence]) -> tuple[ContinuousEngine | HFGenerateEngine | VLLMEngine, str | None]:
        """(engine, reason if it is not the preferred one).  Raises EvaluationError if `continuous` cannot be used."""
        if self._backend == "generate":
            return HFGenerateEngine(self._model, self.decoder, self._streamer), None
        reason = self._obstacle(answers)
        refused = None
        if self._backend == "vllm" and self._served is not None:
            refused = reason or self._served.why_not
            if refused is None:
                return VLLMEngine(self._served, self.decoder), None
            refused = f"not by vllm: {refused}"
        if reason is None:
            engine = ContinuousEngine(self._model, self.decoder)
            reason = engine.why_not(answers)
            if reason is None:
                return engine, refused
        if self._backend == "continuous":
            raise EvaluationError(f"evaluation.backend continuous cannot answer with this model: {reason}.")
        return HFGenerateEngine(self._model, self.decoder, self._streamer), refused or reason

    def _obstacle(self, answers: Sequence[TokenSequence]) -> str | None:
        if self.decoder.config.num_beams > 1:
            return "beam search"
        return "a single answer" if len(answers) == 1 or self._streamer is not None else None


def count_examples(samples: int, progress: Progress) -> Callable[[TokenSequence], None]:
    """A callback that reports an example as done after its last sample."""
    seen: Counter[str] = Counter()

    def done(answer: TokenSequence) -> None:
        example = answer.key.rpartition(" ")[0]
        seen[example] += 1
        if seen[example] == samples:
            progress(1)

    return done


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
