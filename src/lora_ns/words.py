"""Token ids of plain text from a dictionary of words: the tokenizer's own ids, four times as many a second.

    text      "Q: 2+3?\\n"
    words     "Q" ":" " 2" "+" "3" "?" "\\n"       as the tokenizer's pattern cuts it, by Python's `re`
    ids        48  25  362  10  18  30   198       each word's asked of the tokenizer once

A tokenizer that cuts text by such a pattern looks at each word by itself, so words may be looked up.  Whatever is out of
the ordinary goes the tokenizer's own way: other pipelines, text beyond ASCII (whose classes of characters differ with the
Unicode version), text with special tokens in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Where a byte-level pre-tokenizer cuts by itself (Radford et al. 2019, github.com/openai/gpt-2, encoder.py)."""

EACH_DIGIT = r"\p{N}|[^\p{N}]+"
IN_ASCII = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9"} | dict.fromkeys(
    ("Lt", "Lm", "Lo", "M"), ""
)
"""Unicode's classes of characters, as far as they lie in ASCII."""
IDENTITY_ON_ASCII = {None, "NFC", "NFD", "NFKC", "NFKD"}
KEPT_WORDS = 200_000
CHECKED = 2
"""Texts of each call that are also given to the tokenizer."""

_STRANGE = re.compile(r"[^\t\n\r -~]")


class WordsDiffer(Exception):
    """The tokenizer's ids of a text are others than those of its words."""


class Words:
    """A fast tokenizer's words and their ids."""

    def __init__(self, tokenizer: Any, patterns: Sequence[Any]):
        """patterns: compiled; text is cut by the first, its pieces by the next."""
        self._tokenizer = tokenizer
        self._split = _splitter(patterns)
        self._ids = _Ids(tokenizer, self._split)
        added = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
        self._special = re.compile("|".join(map(re.escape, added)) or r"(?!)")
        bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self._around = whole[:start], whole[start + len(bare) :]

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids of each text, as the tokenizer gives them.  special: with the tokens that it puts around a text.

        Raises WordsDiffer where they are not, among the first texts.
        """
        found = [self._look_up(text) for text in texts]
        left = [place for place, ids in enumerate(found) if ids is None or place < CHECKED]
        for place, ids in zip(left, self._by_tokenizer([texts[place] for place in left]), strict=True):
            if found[place] not in (None, ids):
                raise WordsDiffer(texts[place])
            found[place] = ids
        opening, closing = self._around if special else ([], [])
        return [[*opening, *(ids or []), *closing] for ids in found]

    def _by_tokenizer(self, texts: Sequence[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _look_up(self, text: str) -> list[int] | None:
        if _STRANGE.search(text) or self._special.search(text):
            return None
        words = self._split(text)
        if sum(map(len, words)) < len(text):
            return None
        try:
            return [*chain.from_iterable(map(self._ids.__getitem__, words))]
        except KeyError:
            return None


class _Ids(dict[str, list[int]]):
    """Word -> its ids.  Raises KeyError for a word that would be cut further where it stood alone."""

    def __init__(self, tokenizer: Any, split: Callable[[str], list[str]]):
        super().__init__()
        self._backend, self._split = tokenizer.backend_tokenizer, split

    def __missing__(self, word: str) -> list[int]:
        if self._split(word) != [word]:
            raise KeyError(word)
        if len(self) >= KEPT_WORDS:
            self.clear()
        ids = self[word] = self._backend.encode(word, add_special_tokens=False).ids
        return ids


def words_of(tokenizer: Any) -> Words | None:
    """The words of a tokenizer; None where it does not cut text by patterns that are known to give the same here."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    pipeline = json.loads(backend.to_str())
    patterns = _patterns(pipeline["pre_tokenizer"])
    by_chance = pipeline["model"].get("dropout") is not None
    if patterns is None or by_chance or not _normalizers(pipeline["normalizer"]) <= IDENTITY_ON_ASCII:
        return None
    return Words(tokenizer, patterns)


def _normalizers(stated: Any) -> set[str | None]:
    if stated is None or stated["type"] != "Sequence":
        return {stated and stated["type"]}
    return {None}.union(*map(_normalizers, stated["normalizers"]))


def _patterns(stated: Any) -> list[Any] | None:
    """The patterns that text is cut by, one after another; None where that is not all that happens."""
    steps = [stated] if stated and stated["type"] != "Sequence" else (stated or {}).get("pretokenizers", [])
    found = [_pattern(step) for step in steps]
    if None in found or not any(found):
        return None
    try:
        compiled = [re.compile(_in_ascii(pattern), re.ASCII) for pattern in found if pattern]
    except (KeyError, re.error):
        return None
    return compiled if not any(pattern.groups for pattern in compiled) else None


def _in_ascii(pattern: str) -> str:
    """The pattern for text of ASCII, in Python's syntax.  Raises KeyError where it is not known."""
    written, inside = [], False
    for part, name in re.findall(r"(\\[pP]\{(\^?\w+)\}|\\.|.)", pattern, re.DOTALL):
        if part.startswith(("\\p", "\\P")):
            if part[1] == "P" or not (inside or IN_ASCII[name]):
                raise KeyError(part)
            part = IN_ASCII[name] if inside else f"[{IN_ASCII[name]}]"
        elif part in "[]":
            if inside == (part == "["):
                raise KeyError("a set in a set")
            inside = not inside
        written.append(part)
    return "".join(written)


def _pattern(step: dict[str, Any]) -> str | None:
    """ "" for a step that cuts nothing, None for one that is not known."""
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": cuts}:
            return GPT2 if cuts else ""
        case {"type": "Digits", "individual_digits": True}:
            return EACH_DIGIT
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return pattern
    return None


def _splitter(patterns: Sequence[Any]) -> Callable[[str], list[str]]:
    first, *others = patterns
    if not others:
        return first.findall
    rest = _splitter(others)
    return lambda text: [word for piece in first.findall(text) for word in rest(piece)]
