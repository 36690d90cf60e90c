"""Turns assertions into questions to the program and expected values that the program never sees.

`assert f(2) == 4` becomes the question `f(2)` and the expected value 4, compared outside the sandbox.  Any other check
(`abs(f(2) - 4) < 1e-6`, a loop) is a harness.  It runs in a second isolated process that calls the program's functions
through the judge, so the program cannot manipulate it.  Only a harness that handles the program's own objects (its
classes, say) must run in the program's process, where a hostile program can forge its verdict.
"""

import ast
import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lora_ns.benchmarks.sandbox.harness import Harness, harness_of


@dataclass(frozen=True)
class Question:
    """An expression that the program's process evaluates, and its expected value."""

    expression: str
    expected: Any
    identical: bool = False
    """Compare by `is` (for None, True, False) instead of `==`."""

    def met_by(self, value: Any) -> bool:
        """Whether the returned value equals the expected one."""
        return value is self.expected if self.identical else bool(value == self.expected)


Check = Question | Harness


def checks_of(asserts: tuple[str, ...], harness: str) -> list[Check]:
    """Return the checks, in order.  Raises SyntaxError if an assertion or the harness is not Python."""
    checks: list[Check] = [_check_of(line) for line in asserts]
    if harness:
        checks.extend(_questions_of_harness(harness) or [harness_of(harness)])
    return checks


def _check_of(line: str) -> Check:
    body = ast.parse(line).body
    question = question_of(body[0]) if len(body) == 1 else None
    return question or harness_of(line)


def question_of(statement: ast.stmt) -> Question | None:
    """Return the question of an assertion; None unless it is `expression == literal` (or `is`, or sides swapped)."""
    if not isinstance(statement, ast.Assert) or not isinstance(statement.test, ast.Compare):
        return None
    test = statement.test
    if len(test.ops) != 1 or not isinstance(test.ops[0], (ast.Eq, ast.Is)):
        return None
    identical = isinstance(test.ops[0], ast.Is)
    for asked, answer in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
        try:
            expected = literal(answer)
        except ValueError:
            continue
        if identical and not (expected is None or isinstance(expected, bool)):
            return None
        if any(isinstance(node, ast.Call) for node in ast.walk(asked)) and not _lets_program_judge(asked, expected):
            return Question(ast.unparse(asked), expected, identical)
    return None


_COMPARING_METHODS = {"count", "index", "remove", "startswith", "endswith", "issubset", "issuperset", "isdisjoint"}


def _lets_program_judge(asked: ast.expr, expected: Any) -> bool:
    """Whether the program's process would do the comparison itself. A class with its own `__eq__` could then forge it.

    In `(f(7) == 4) is True` the program does the comparison. In `all(…) == True` it need only reply True.  A boolean is
    therefore accepted as expected value only if the program's own function returns it.
    """
    if any(isinstance(node, (ast.Compare, ast.BoolOp, ast.IfExp, ast.Not)) for node in ast.walk(asked)):
        return True
    called = [node.func for node in ast.walk(asked) if isinstance(node, ast.Call)]
    if any(isinstance(function, ast.Attribute) and function.attr in _COMPARING_METHODS for function in called):
        return True
    own = isinstance(asked, ast.Call) and isinstance(asked.func, ast.Name) and not hasattr(builtins, asked.func.id)
    return isinstance(expected, bool) and not own


_CONSTRUCTORS: dict[str, Callable[[Any], Any]] = {
    "set": set, "frozenset": frozenset, "tuple": tuple, "list": list, "dict": dict, "float": float,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}  # fmt: skip


def literal(node: ast.expr) -> Any:
    """Return the value of an expression of literals, constructors such as `set(…)`, and arithmetic.  Raises ValueError."""
    match node:
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CONSTRUCTORS and len(args) <= 1:
            try:
                return _CONSTRUCTORS[name](*map(literal, args))
            except TypeError as error:
                raise ValueError(str(error)) from error
        case ast.Tuple(elts=members):
            return tuple(map(literal, members))
        case ast.List(elts=members):
            return list(map(literal, members))
        case ast.Set(elts=members):
            return set(map(literal, members))
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return dict(zip((literal(key) for key in keys if key), map(literal, values), strict=True))
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
            sides = literal(left), literal(right)
            if all(isinstance(side, (int, float, complex)) for side in sides):
                try:
                    return _ARITHMETIC[type(operator)](*sides)
                except ArithmeticError as error:
                    raise ValueError(str(error)) from error
    try:
        return ast.literal_eval(node)
    except (TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _questions_of_harness(harness: str) -> list[Check]:
    """Return the questions of a harness `def check(candidate)` of assertions only, plus `check(f)`; [] for any other."""
    match ast.parse(harness).body:
        case [
            *before,
            ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg=candidate)])) as function,
            ast.Expr(value=ast.Call(func=ast.Name(id=called), args=[ast.Name(id=entry_point)], keywords=[])),
        ] if called == function.name and all(_is_unread_assignment(each, function) for each in before):
            pass
        case _:
            return []
    questions: list[Check] = []
    for statement in function.body:
        if _is_idle(statement):
            continue
        question = question_of(_Renamed(candidate, entry_point).visit(statement))
        if question is None:
            return []
        questions.append(question)
    return questions


def _is_unread_assignment(statement: ast.stmt, function: ast.FunctionDef) -> bool:
    """Whether the statement is an assignment that no check reads, such as `METADATA = {…}`."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if not any(
            isinstance(node, ast.Call) for node in ast.walk(value)
        ):
            return not any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))
    return False


def _is_idle(statement: ast.stmt) -> bool:
    """Whether the statement is a docstring, `pass` or `assert True`."""
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()) | ast.Assert(test=ast.Constant(value=True)):
            return True
    return False


class _Renamed(ast.NodeTransformer):
    def __init__(self, old: str, new: str):
        self.old, self.new = old, new

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(id=self.new, ctx=node.ctx) if node.id == self.old else node
