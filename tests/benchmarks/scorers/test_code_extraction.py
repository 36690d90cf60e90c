"""What is taken for the program in answers of many shapes."""

import gzip
import json

import pytest
from support import SHARED_DATA

from lora_ns.benchmarks.code import entry_point_of
from lora_ns.benchmarks.scorers import code_extraction as extract_code_module
from lora_ns.benchmarks.scorers.code_extraction import defines, extract_code, function_program, parses

SHARED = SHARED_DATA
MBPP = SHARED / "mbpp" / "mbpp.jsonl"
HUMANEVAL = SHARED / "humaneval" / "HumanEval.jsonl.gz"

ADD = "def add(a, b):\n    return a + b\n"
WRONG = "def add(a, b):\n    return a - b\n"
USES = "def add(a, b):\n    return plus(a, b)\n"
HELPER = "def plus(x, y):\n    return x + y\n"
FENCED = 'def add(a, b):\n    """Adds.\n\n    ```python\n    add(1, 2)\n    ```\n    """\n    return a + b\n'
LAMBDA = "add = lambda a, b: a + b\n"

# name, completion, expected program
ANSWERS = [
    ("plain", ADD, ADD),
    ("carriage returns", ADD.replace("\n", "\r\n"), ADD),
    ("fenced", f"```python\n{ADD}```", ADD),
    ("fenced with prose around", f"Sure, here it is:\n\n```python\n{ADD}```\n\nIt adds the two.", ADD),
    ("fenced without a language", f"```\n{ADD}```", ADD),
    ("fenced as py", f"```py\n{ADD}```", ADD),
    ("fenced in capitals", f"```Python\n{ADD}```", ADD),
    ("fenced with attributes", f'```python title="add.py"\n{ADD}```', ADD),
    ("fenced by tildes", f"~~~python\n{ADD}~~~", ADD),
    ("a fence that never closes", f"Here:\n```python\n{ADD}", ADD),
    ("a fence that the prompt opened", f"{ADD}```\nIt adds the two.", ADD),
    ("a fence of tildes that never closes", f"~~~python\n{ADD}", ADD),
    ("a fence opened twice", f"```python\n{WRONG}```python\n{ADD}```", ADD),
    ("an indented fence in a list", "1. So:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n", None),
    ("the last block that defines it", f"First try:\n```python\n{WRONG}```\nBetter:\n```python\n{ADD}```", ADD),
    ("an example of use after it", f"```python\n{ADD}```\nUse it:\n```python\nprint(add(1, 2))\n```", ADD),
    ("its output after it", f"```python\n{ADD}```\nOutput:\n```\n3\n```", ADD),
    ("a shell block before it", f"```bash\npip install numpy\n```\n```python\n{ADD}```", ADD),
    ("a helper in a block before it", f"```python\nimport math\n```\nthen\n```python\n{ADD}```", f"import math\n\n\n{ADD}"),
    ("a trial run in a block before it", f"```python\nprint(1 + 2)\n```\nso\n```python\n{ADD}```", ADD),
    ("a helper in a block after it", f"```python\n{USES}```\nwhere\n```python\n{HELPER}```", f"{USES}\n\n{HELPER}"),
    ("a use with a result after it", f"```python\n{ADD}```\n```python\nresult = add(1, 2)\n```", ADD),
    ("a fence in a docstring", f"Sure:\n```python\n{FENCED}```\nBye.", FENCED),
    ("a fence in a docstring, and none around it", FENCED, FENCED),
    ("a lambda", f"```python\nprint(1)\n```\n```python\n{LAMBDA}```", LAMBDA),
    ("[BEGIN] and [DONE]", f"[BEGIN]\n{ADD}[DONE]\nYou are an expert Python programmer", ADD),
    ("[DONE] alone, then another task", f"{ADD}[DONE]\n\nYou are … [BEGIN]\n{WRONG}[DONE]", ADD),
    ("end of turn, then another turn", f"{ADD}<|im_end|>\n<|im_start|>user\nThanks", ADD),
    ("end of sequence", f"{ADD}</s>{WRONG}", ADD),
    ("prose before", f"Here is the function that adds:\n\n{ADD}", ADD),
    ("prose after", f"{ADD}\nThis function adds the two numbers.", ADD),
    ("prose before and after", f"Of course!\n{ADD}Let me know if it doesn't work.", ADD),
    ("a chat that goes on", f"{ADD}\nUser: thanks!\nAssistant: you're welcome", ADD),
    ("prose that opens like code", f"for this task, we import nothing:\n{ADD}", ADD),
    ("cut off in the middle of the next function", f"{ADD}\ndef sub(a, b):\n    return (a -", None),
    (
        "a decorator and an import",
        f"import functools\n\n\n@functools.cache\n{ADD}",
        f"import functools\n\n\n@functools.cache\n{ADD}",
    ),
    ("a string that looks like a fence", ADD + 'TEXT = "```"\n', ADD + 'TEXT = "```"\n'),
    ("an invalid escape", 'import re\ndef add(a, b):\n    re.compile("\\d")\n    return a + b\n', None),
    ("a call at the end", f"{ADD}\nprint(add(1, 2))\n", f"{ADD}\nprint(add(1, 2))\n"),
    ("a main guard", f'{ADD}\nif __name__ == "__main__":\n    print(add(1, 2))\n', None),
    ("an async function", "```python\nasync def add(a, b):\n    return a + b\n```", "async def add(a, b):\n    return a + b\n"),
]


@pytest.mark.parametrize(("completion", "expected"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_the_program_of_an_answer(completion, expected):
    code = extract_code(completion, "add")
    if expected is not None:
        assert code == expected
    assert parses(code)
    assert defines(code, "add")
    assert "a - b" not in code


@pytest.mark.parametrize("completion", ["", "I cannot do that.", "```python\n```", "def add(a, b", "\x00", "(" * 5000])
def test_an_answer_without_a_program_does_not_become_one(completion):
    assert not defines(extract_code(completion, "add"), "add") or not parses(extract_code(completion, "add"))


def test_a_function_cut_off_keeps_the_one_before():
    code = extract_code(f"{ADD}\ndef sub(a, b):\n    return (a -", "add")
    assert code == ADD


def test_an_answer_of_many_beginnings_is_given_up_in_time(monkeypatch):
    compiled = []
    real = extract_code_module.fault_line
    monkeypatch.setattr(extract_code_module, "fault_line", lambda code: compiled.append(code) or real(code))
    extract_code("x = [1,\n" * 200, "add")
    assert len(compiled) <= extract_code_module.MOST_TRIES + 2


def test_without_an_entry_point_the_first_block_that_defines_counts():
    assert extract_code(f"```\n$ ls\n```\n```python\n{ADD}```\n```python\n{WRONG}```") == ADD


PROMPT = 'from typing import List\n\n\ndef total(xs: List[int]) -> int:\n    """Sum of xs."""\n'
BODY = "    result = 0\n    for x in xs:\n        result += x\n    return result\n"
WHOLE = f"def total(xs: List[int]) -> int:\n{BODY}"

# name, completion, expected program
CONTINUATIONS = [
    ("the body", BODY, PROMPT + BODY),
    ("the body, then another function", f"{BODY}\n\ndef other():\n    pass\n", PROMPT + BODY + "\n"),
    ("the body, then a class", f"{BODY}\nclass A:\n    pass\n", PROMPT + BODY),
    ("the body, then its use", f"{BODY}\nprint(total([1]))\n", PROMPT + BODY),
    ("the body, then its wrong test", f"{BODY}\nassert total([1]) == 2\n", PROMPT + BODY),
    ("the body, then a main guard", f'{BODY}\nif __name__ == "__main__":\n    total([])\n', PROMPT + BODY),
    ("the body, then prose", f"{BODY}\nThis doesn't need numpy.\n", PROMPT + BODY),
    ("the body, then a fence", f"{BODY}```\nDone.", PROMPT + BODY),
    ("the body in a fence", f"```python\n{BODY}```", PROMPT + BODY),
    ("the body without its first indentation", BODY.lstrip(), PROMPT + BODY),
    ("the body at the margin", "return sum(xs)\n", PROMPT + "    return sum(xs)\n"),
    ("all of the body at the margin", "n = sum(xs)\nreturn n\n", PROMPT + "    n = sum(xs)\n    return n\n"),
    ("the whole function", WHOLE, f"{PROMPT.rstrip()}\n\n\n{WHOLE}"),
    ("the whole function in a fence", f"Sure:\n```python\n{WHOLE}```\nBye.", f"{PROMPT.rstrip()}\n\n\n{WHOLE}"),
    ("prompt and body in a fence", f"```python\n{PROMPT}{BODY}```", f"{PROMPT.rstrip()}\n\n\n{PROMPT}{BODY}"),
    ("the whole function, then prose", f"{WHOLE}\nIt doesn't fail.", f"{PROMPT.rstrip()}\n\n\n{WHOLE}"),
    (
        "a multi-line string at the margin",
        '    text = """\nat the margin\n"""\n    return len(text)\n',
        PROMPT + '    text = """\nat the margin\n"""\n    return len(text)\n',
    ),
]


@pytest.mark.parametrize(
    ("completion", "expected"), [case[1:] for case in CONTINUATIONS], ids=[case[0] for case in CONTINUATIONS]
)
def test_the_program_of_a_prompt_that_ends_inside_a_function(completion, expected):
    assert function_program(PROMPT, completion, "total").rstrip() == expected.rstrip()


def test_a_whole_function_behind_the_prompt_replaces_the_prompts():
    scope: dict = {}
    exec(function_program(PROMPT, f"```python\n{WHOLE}```", "total"), scope)
    assert scope["total"]([1, 2, 3]) == 6


@pytest.mark.skipif(not MBPP.exists(), reason="MBPP is not at ../shared/data")
def test_every_mbpp_gold_is_taken_as_it_is_bare_and_fenced():
    rows = [json.loads(line) for line in MBPP.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 974
    for row in rows:
        gold = row["code"].replace("\r\n", "\n").replace("\r", "\n")
        entry_point = entry_point_of(row["test_list"])
        assert entry_point is not None
        assert extract_code(row["code"], entry_point) == gold
        assert extract_code(f"Here you are.\n```python\n{gold}\n```\nEnjoy.", entry_point).strip() == gold.strip()
        assert extract_code(f"{gold}\n[DONE]\n\nYou are an expert", entry_point).strip() == gold.strip()


@pytest.mark.skipif(not HUMANEVAL.exists(), reason="HumanEval is not at ../shared/data")
def test_every_humaneval_gold_continues_its_prompt_unchanged():
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert len(rows) == 164
    for row in rows:
        whole = row["prompt"] + row["canonical_solution"]
        assert function_program(row["prompt"], row["canonical_solution"], row["entry_point"]) == whole
        trailing = f"{row['canonical_solution']}\n\ndef unrelated():\n    pass\n"
        assert function_program(row["prompt"], trailing, row["entry_point"]).rstrip() == whole.rstrip()
        assert function_program(row["prompt"], f"```python\n{whole}\n```", row["entry_point"]).rstrip().endswith(whole.rstrip())
