"""The program in a model's answer.

    "Sure!\\n```python\\ndef f(x):\\n    return x\\n```\\nHope it helps"   ->  "def f(x):\\n    return x\\n"
    "[BEGIN]\\ndef f(x):\\n    return x\\n[DONE]\\nYou are …"             ->  "def f(x):\\n    return x\\n"
    "Here it is:\\ndef f(x):\\n    return x\\nThis works as …"           ->  "def f(x):\\n    return x\\n"

A text that is a program counts as it is, then fenced blocks (also one that never opens or never closes), then the longest
run of its lines that is a program.  Nothing here runs or repairs code: what does not parse is handed on as it is
and fails where it is run.
"""

import ast
import re
import warnings
from textwrap import dedent, indent

_END_OF_TURN = re.compile(r"<\|(?:im_end|im_start|endoftext|eot_id|end_of_text|end)\|>|</s>|<eos>|<end_of_turn>")
_FENCE = re.compile(r"^([ \t]*)(?:```|~~~)[ \t]*([\w+#.-]*)[^\n`]*$\n?", re.MULTILINE)
_PYTHON = {"", "python", "python2", "python3", "py", "py3"}
_OPENS_CODE = re.compile(r"(?:def|class|async|import|from|if|for|while|with|try)\b|@|[A-Za-z_]\w*(?:\[.*\])?\s*=[^=]")
_DEFINITION = re.compile(r"^(?:(?:async )?(?:def|class) |\w+ *= *lambda\b)", re.MULTILINE)
INDENTED = 4
"""A fence indented by at least so many columns more than the opening fence is text of the block (in a docstring, say)."""
MOST_TRIES = 400
MOST_TRIES_A_LINE = 25
"""Most compile() calls per completion, and per starting line, when a program is searched in prose."""
_AFTER_FUNCTION = re.compile(r"\n(?=[^\s)\]}])")


def extract_code(completion: str, entry_point: str | None = None) -> str:
    """Return the program in the completion.

    entry_point: name of the required function.  Of several fenced blocks the last one that defines it is taken, with the
    definitions of earlier blocks before it and the definitions it needs from later blocks after it.  Without an entry
    point, or where no block defines it, the first block that defines anything is taken.
    """
    text = _this_answer(completion)
    if parses(text) and not text.lstrip().startswith("~~~"):  # fences in it are in its strings
        return text
    blocks = [_at_margin(block) for block in _fenced_blocks(text)]
    if blocks:
        return _chosen_block(blocks, entry_point)
    return _longest_program(text, entry_point)


def function_program(prompt: str, completion: str, entry_point: str) -> str:
    """Return the program of a prompt that ends inside a function (HumanEval), continued by the completion.

    A completion that defines the function itself is appended to the prompt, whose imports it may need.  Any other is the
    function's body, cut at the first unindented line.  The stop strings of the published evaluation have this effect
    (Chen et al. 2021, section 2.2).
    """
    text = _this_answer(completion)
    fenced = [] if parses(text) or parses(prompt + text) else _fenced_blocks(text)
    blocks = [_at_margin(block) if defines(_at_margin(block), entry_point) else block for block in fenced]
    code = _chosen_block(blocks, entry_point) if blocks else text
    if not defines(code, entry_point):
        return prompt + _body(prompt, code)
    return f"{prompt.rstrip()}\n\n\n{code if parses(code) else _longest_program(code, entry_point)}"


def defines(code: str, name: str) -> bool:
    """Whether the code defines the function at module level, by `def` or as a `lambda`."""
    word = re.escape(name)
    return re.search(rf"^(?:(?:async )?def {word}\s*\(|{word}\s*(?::[^=\n]*)?=\s*lambda\b)", code, re.MULTILINE) is not None


def parses(code: str) -> bool:
    """Whether the text is a non-empty Python program."""
    return bool(code.strip()) and fault_line(code) is None


def _this_answer(completion: str) -> str:
    """Return the completion up to the end of the turn, with `\\n` line ends, and only the part between [BEGIN] and [DONE]."""
    text = completion.replace("\r\n", "\n").replace("\r", "\n")
    text = _END_OF_TURN.split(text, maxsplit=1)[0]
    _, begin, after = text.partition("[DONE]")[0].rpartition("[BEGIN]")
    return after.removeprefix("\n") if begin else after


def _fenced_blocks(text: str) -> list[str]:
    """Return the fenced blocks marked Python or unmarked; if there are none, all fenced blocks."""
    fences = _fences(text)
    blocks: list[tuple[str, str]] = []
    opened: tuple[str, int] | None = None
    if len(fences) % 2 and not fences[0][2] and _looks_like_code(text[: fences[0].start()]):
        opened = ("", 0)  # the prompt had opened the block
    for fence in fences:
        if opened is not None:
            blocks.append((opened[0], text[opened[1] : fence.start()]))
        opened = (fence[2].lower(), fence.end()) if opened is None or fence[2] else None
    if opened is not None:
        blocks.append((opened[0], text[opened[1] :]))
    blocks = [(language, code) for language, code in blocks if code.strip()]
    return [code for language, code in blocks if language in _PYTHON] or [code for _, code in blocks]


def _fences(text: str) -> list[re.Match[str]]:
    """Return the fences that open and close blocks, without the indented ones inside a block."""
    fences: list[re.Match[str]] = []
    column: int | None = None
    for fence in _FENCE.finditer(text):
        indentation = len(fence[1].expandtabs())
        if column is not None and indentation >= column + INDENTED:
            continue
        column = indentation if column is None or fence[2] else None
        fences.append(fence)
    return fences


def _looks_like_code(text: str) -> bool:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return first[:1].isspace() or _OPENS_CODE.match(first) is not None


def _at_margin(block: str) -> str:
    """Return a block dedented, if it is indented as a whole (in a Markdown list, say)."""
    first = next(line for line in block.split("\n") if line.strip())
    return dedent(block) if first[0].isspace() else block


def _chosen_block(blocks: list[str], entry_point: str | None) -> str:
    defining = [index for index, code in enumerate(blocks) if entry_point and defines(code, entry_point)]
    if not defining:
        return next((code for code in blocks if _DEFINITION.search(code)), blocks[0])
    last = defining[-1]
    before = [code.rstrip() for index, code in enumerate(blocks[:last]) if index not in defining and _only_defines(code)]
    chosen = "\n\n\n".join([*before, blocks[last]])
    for code in blocks[last + 1 :]:
        if _only_defines(code) and _names(code, ast.Store) & (_names(chosen, ast.Load) - _names(chosen, ast.Store)):
            chosen = f"{chosen.rstrip()}\n\n\n{code}"
    return chosen


def _names(code: str, use: type[ast.Load | ast.Store]) -> set[str]:
    """Return the names that a program uses (Load) or defines (Store); an empty set if it does not parse."""
    if not parses(code):
        return set()
    nodes = list(ast.walk(ast.parse(code)))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, use)}
    if use is ast.Load:
        return names
    names |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))}
    names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return names | {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}


def _only_defines(code: str) -> bool:
    """Whether a block contains only imports, functions, classes and assignments."""
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    return parses(code) and all(isinstance(statement, kinds) for statement in ast.parse(code).body)


def _longest_program(text: str, entry_point: str | None) -> str:
    """Return the longest run of lines that parses and starts like code. Runs that define the entry point are preferred."""
    lines = text.split("\n")
    best, best_rank, end = "", (False, 0), 0
    tries = MOST_TRIES
    for start, line in enumerate(lines):
        if start < end or not _OPENS_CODE.match(line):
            continue
        end, tried = _end_of_program(lines, start, min(tries, MOST_TRIES_A_LINE))
        tries -= tried
        program = "\n".join(lines[start:end])
        rank = (entry_point is not None and defines(program, entry_point), end - start)
        if rank > best_rank:
            best, best_rank = program, rank
    return best.rstrip() + "\n" if best else text


def _end_of_program(lines: list[str], start: int, tries: int) -> tuple[int, int]:
    """Return (end, number of tries). lines[start:end] is the longest program found; end == start if there is none."""
    end, tried = len(lines), 0
    while end > start and tried < tries:
        fault = fault_line("\n".join(lines[start:end]))
        tried += 1
        if fault is None:
            return end, tried
        end = min(end - 1, start + max(fault - 1, 0))
    return start, tried


def _body(prompt: str, code: str) -> str:
    """Return the part of the code that continues the prompt's function; all of the code if no part parses."""
    shapes = [code]
    if code.strip() and not code[0].isspace():  # the indentation of all lines, or of the first, is lost
        if parses(prompt + indent(code, "    ")):
            return indent(code, "    ")
        shapes = ["    " + code, code]
    for shape in shapes:
        end = _AFTER_FUNCTION.search(shape)
        for body in (shape[: end.start() + 1] if end else shape, shape):
            if parses(prompt + body):
                return body
    return code


def fault_line(code: str) -> int | None:
    """The line, from 1, at which the text stops being a program; None for a program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a model's invalid escape is its own affair
        try:
            compile(code, "<answer>", "exec", dont_inherit=True)
        except SyntaxError as error:
            return error.lineno or 1
        except (ValueError, RecursionError, MemoryError):
            return 1  # a null byte, or nesting that the parser gives up on
    return None
