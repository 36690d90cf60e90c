"""Decodes the messages from the sandbox.  Their sender is not trusted: every message may be forged or malformed."""

import json
from typing import Any

MEMBERS_PER_TABLE = 10_000
"""Largest set or dictionary that is decoded. With colliding hashes, building one takes quadratic time."""


class Unreadable(Exception):
    """The message does not have the expected form."""


class Opaque:
    """Placeholder for a value that cannot be sent out of the sandbox, such as an object of a program's class."""

    def __init__(self, kind: str):
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def message_of(frame: bytes) -> tuple[str, Any]:
    """Return kind and content of a message.  Raises Unreadable."""
    try:
        message = json.loads(frame)
        kind, content = message["t"], message["v"]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Unreadable("the program wrote on the judge's channel") from None
    if not isinstance(kind, str):
        raise Unreadable("the program wrote on the judge's channel")
    return kind, content


def value_of(wire: Any) -> Any:
    """Return the plain value of its JSON form; Opaque if any part of it is opaque.  Raises Unreadable."""
    try:
        return _decoded(wire)
    except _FoundOpaque as found:
        return Opaque(str(found))
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise Unreadable("the program sent a value that cannot be read") from None


class _FoundOpaque(Exception):
    pass


def _decoded(wire: Any) -> Any:
    if wire is None or isinstance(wire, (bool, int, float, str)):
        return wire
    kind, content = wire["t"], wire["v"]
    if kind == "opaque":
        raise _FoundOpaque(content)
    if kind == "int":
        return int(content, 16)
    if kind == "bytes":
        return bytes.fromhex(content)
    members = [_decoded(member) for member in content]
    if kind == "complex":
        return complex(*members)
    if kind in ("set", "frozenset", "dict") and len(members) > MEMBERS_PER_TABLE:
        raise _FoundOpaque(f"{kind} of {len(members)} members")
    if kind == "dict":
        return dict(zip(members[::2], members[1::2], strict=True))
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](members)
