"""Reads and writes YAML files, with readable messages for invalid ones."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml

from lora_ns.errors import ConfigError

# libyaml is ten times faster, which matters for thousands of run files. PyYAML may be installed without it.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def _loader(base: Any) -> Any:
    """Return a loader with YAML 1.2 numbers (`2e-4` is a number). Duplicate keys and recursive values are errors."""

    class Loader(base):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, str) and key in seen:
                    problem = f"the key {key!r} is given twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
                if isinstance(key, str):
                    seen.add(key)
            return super().construct_mapping(node, deep)

    # built in one step, not in two as in PyYAML, so that a recursive value fails
    Loader.add_constructor("tag:yaml.org,2002:map", partial(Loader.construct_mapping, deep=True))
    Loader.add_constructor("tag:yaml.org,2002:seq", partial(Loader.construct_sequence, deep=True))
    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+0123456789."),
    )
    return Loader


_FAST, _SPOKEN = _loader(_SafeLoader), _loader(yaml.SafeLoader)


def parse_yaml(text: str) -> Any:
    """Return the plain values of a YAML text; `2e-4` is a number.  Raises yaml.YAMLError."""
    try:
        return yaml.load(text, Loader=_FAST)
    except yaml.YAMLError:
        return yaml.load(text, Loader=_SPOKEN)  # fails too, with a clearer message


def read_mapping(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return a YAML file's mapping, merged over the files that its `extends:` names (relative to the file).

    below: the files that extend this one, for cycle detection.  Raises ConfigError naming file and line.
    """
    content = _read_one(path)
    names = content.pop("extends", [])
    names = [names] if isinstance(names, str) else names
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: extends: expected a file or a list of files, found {names!r}.")
    if path.resolve() in below:
        raise ConfigError(f"{path}: extends: the files extend one another in a circle.")
    base: dict[str, Any] = {}
    for name in names:
        try:
            base = merge(base, read_mapping(path.parent / name, (*below, path.resolve())))
        except ConfigError as error:
            raise ConfigError([f"{path}: extends: {problem}" for problem in error.problems]) from None
    return merge(base, content)


def _read_one(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.{_sibling_hint(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {why_unreadable(error)}.") from None
    try:
        content = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}" if mark else ""
        problem = error.problem or str(error)
        hint = " (YAML indents with spaces, never with tabs)" if "'\\t'" in problem else ""
        raise ConfigError(f"{path}{place}: not valid YAML: {problem}{hint}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid YAML: its brackets are nested too deep") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        kind = "empty" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: expected keys and values, found {kind}.")
    return content


def why_unreadable(error: OSError | UnicodeError) -> str:
    """Return why a text file cannot be read, with a remedy where there is one."""
    if isinstance(error, IsADirectoryError):
        return "is a folder, and a file is wanted"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    if isinstance(error, UnicodeDecodeError):
        if error.object[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return "is no UTF-8 text but UTF-16: save it as UTF-8"
        byte = error.object[error.start]
        return f"is no UTF-8 text (byte 0x{byte:02x} at position {error.start}): save it as UTF-8"
    return f"is no UTF-8 text: {error}"


def write_yaml(value: Mapping[str, Any]) -> str:
    """Return a mapping of plain values as YAML text. Reading it back gives equal values, floats bit for bit."""
    return "".join(_section(key, content) for key, content in value.items())


_SECTIONS: dict[tuple[str, str], str] = {}
"""(key, repr of content) -> YAML text. A cache, since many run files share sections."""


def _section(key: str, content: Any) -> str:
    words = (key, repr(content))
    if words not in _SECTIONS:
        section = yaml.dump({key: content}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
        _SECTIONS[words] = section
    return _SECTIONS[words]


@lru_cache(maxsize=4096)
def _looks_odd(text: str) -> bool:
    """Return whether our loader would read the string as another type, such as a number."""
    return not isinstance(parse_yaml_quietly(text), str)


class _Dumper(_SafeDumper):
    pass


def _float(dumper: Any, value: float) -> yaml.ScalarNode:
    if math.isfinite(value):
        return dumper.represent_scalar("tag:yaml.org,2002:float", repr(value))
    return _SafeDumper.represent_float(dumper, value)


_Dumper.add_representer(float, _float)
_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text != text.strip() or "\n" in text or _looks_odd(text) else None
    ),
)


def parse_yaml_quietly(text: str) -> Any:
    """Return the value of a YAML text, or the text itself if it is not valid YAML."""
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, ValueError):
        return text


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def _sibling_hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (the folder {path.parent} does not exist either)"
    return nearest(path.name, [p.name for p in path.parent.iterdir()])


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` merged into it recursively. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def expand_dotted(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys such as `{"training.learning_rate": 1}` as nested sections. Nested mappings may be mixed in."""
    nested: dict[str, Any] = {}
    for key, value in pairs.items():
        branch: Any = expand_dotted(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")):
            branch = {part: branch}
        nested = merge(nested, branch)
    return nested


def _override_value(text: str) -> Any:
    """Return the value of a command-line override, read as YAML. A template such as `Q: {question}` or `{answer}` is text."""
    value = parse_yaml_quietly(text)
    if isinstance(value, Mapping) and (not text.lstrip().startswith("{") or None in value.values()):
        return text
    return value


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """Return `["training.learning_rate=1e-4", "peft.r=8"]` as nested sections.  Raises ConfigError for a missing `=`."""
    pairs: dict[str, Any] = {}
    problems = []
    for argument in arguments:
        key, sign, text = argument.partition("=")
        if not sign or not key or any(not part for part in key.split(".")):
            problems.append(f"{argument!r}: an override has the form section.key=value (say training.learning_rate=1e-4).")
            continue
        pairs[key] = _override_value(text)
    if problems:
        raise ConfigError(problems)
    return expand_dotted(pairs)
