"""Decides from its source where a harness may run: in a separate process, or in the program's process.

The program's replies play no part in this, else a program could choose its judge.
"""

import ast
import builtins
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Harness:
    """Statements that must end without an exception.

    program_names: the program's functions that it calls; None: it must run in the program's process.
    module_names: modules of the standard library that it uses and does not import.
    """

    source: str
    program_names: tuple[str, ...] | None
    module_names: tuple[str, ...] = ()


def harness_of(source: str) -> Harness:
    """Return the harness with the functions that it calls.  Raises SyntaxError.

    It must run in the program's process if it may handle more than plain values. This is so if a name of the program is
    capitalised (a class), is neither called nor passed to a function of the harness, or gets a function as argument. It is
    also so if the harness reads an attribute of a returned value that no plain value has.
    """
    tree = ast.parse(source)
    loaded = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    free = loaded - _bound_names(tree) - set(dir(builtins))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = (free & sys.stdlib_module_names) - called
    names = free - modules
    if any(name[:1].isupper() for name in names) or _handles_objects(tree, names):
        return Harness(source, None)
    return Harness(source, tuple(sorted(names)), tuple(sorted(modules)))


def _bound_names(tree: ast.AST) -> set[str]:
    """Return the names that the harness itself assigns, defines, takes as parameters or imports."""
    bound = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)):
                bound.add(name)
            case ast.arg(arg=name):
                bound.add(name)
            case ast.alias(name=name, asname=alias):
                bound.add(alias or name.split(".")[0])
    return bound


_ATTRIBUTES_OF_PLAIN_VALUES = {name for kind in (str, bytes, int, float, complex, list, tuple, dict, set) for name in dir(kind)}


def _handles_objects(tree: ast.AST, names: set[str]) -> bool:
    """Whether the harness may handle objects of the program other than plain values."""
    own_functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    suspects = _touched_by(tree, names)
    permitted: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name() as function):
                permitted.add(id(function))
                if function.id in own_functions:
                    permitted.update(map(id, node.args))
                if function.id in suspects and any(_gives_function(argument, own_functions) for argument in node.args):
                    return True
            case ast.Attribute(value=base, attr=attribute) if attribute not in _ATTRIBUTES_OF_PLAIN_VALUES:
                if _names_in(base) & suspects:
                    return True
    return any(isinstance(node, ast.Name) and node.id in names and id(node) not in permitted for node in ast.walk(tree))


def _touched_by(tree: ast.AST, names: set[str]) -> set[str]:
    """Return the names, the parameters of the harness's own functions, and every name assigned from one of these."""
    touched = names | {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    flows: list[tuple[ast.AST, ast.AST]] = []  # (from, to)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value):
                flows.extend((value, target) for target in targets)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                flows.append((value, target))
            case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                flows.append((value, target))
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                flows.append((value, target))
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                flows.append((value, target))
    while True:
        grown = touched.union(*(_names_in(target) for value, target in flows if _names_in(value) & touched))
        if grown == touched:
            return touched
        touched = grown


def _names_in(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _gives_function(argument: ast.expr, own_functions: set[str]) -> bool:
    """Whether the argument is a function or a generator, which cannot be sent to another process."""
    return isinstance(argument, (ast.Lambda, ast.GeneratorExp)) or bool(_names_in(argument) & own_functions)
