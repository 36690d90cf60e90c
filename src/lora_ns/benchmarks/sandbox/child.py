"""Runs inside the sandbox: executes a program and replies with plain values.  Never imported by the package.

Requests are length-prefixed `marshal` (the judge is trusted). Replies are length-prefixed JSON (this process is not
trusted).  The expected values are never sent to this process.  A program may overwrite anything here, but it can still
only reply with a value, which the judge compares outside.
"""

import marshal
import os
import sys
from _json import encode_basestring_ascii as quoted  # `import json` would cost 5 ms a run

TOO_DEEP = 200


class Channel:
    """Length-prefixed messages to and from the judge."""

    def __init__(self, request_fd, reply_fd):
        self.request_fd = request_fd
        self.reply_fd = reply_fd

    def read(self):
        size = int.from_bytes(self._read_exactly(4), "big")
        return marshal.loads(self._read_exactly(size))

    def _read_exactly(self, size):
        parts = []
        while size:
            part = os.read(self.request_fd, min(size, 1 << 20))
            if not part:
                os._exit(0)  # the judge has closed the channel
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, text):
        data = text.encode("ascii")
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.reply_fd, data) :]


def encoded(value, depth=0):
    """Return the JSON of a plain value. A subclass is encoded as its base type, as `==` sees it. Other types: their name."""
    if depth > TOO_DEEP:
        return tagged("opaque", quoted("value nested too deeply"))
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        value = int.__int__(value)
        return int.__repr__(value) if -(2**63) < value < 2**63 else tagged("int", quoted(hex(value)))
    if isinstance(value, float):
        text = float.__repr__(value)
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)
    if isinstance(value, str):
        return quoted(str.__str__(value))
    if isinstance(value, complex):
        return tagged("complex", joined(encoded(value.real), encoded(value.imag)))
    if isinstance(value, (bytes, bytearray)):
        return tagged("bytes", quoted(bytes(value).hex()))
    if isinstance(value, dict):
        return tagged("dict", members((item for pair in dict.items(value) for item in pair), depth))
    if isinstance(value, list):
        return tagged("list", members(list.__iter__(value), depth))
    if isinstance(value, tuple):
        return tagged("tuple", members(tuple.__iter__(value), depth))
    if isinstance(value, set):
        return tagged("set", members(set.__iter__(value), depth))
    if isinstance(value, frozenset):
        return tagged("frozenset", members(frozenset.__iter__(value), depth))
    if isinstance(value, (type({}.keys()), type({}.items()))):  # these equal sets
        return tagged("set", members(value, depth))
    return encoded_number(value, depth)


def encoded_number(value, depth):
    """Return the JSON of a numpy scalar, Decimal or Fraction as the plain number that it equals."""
    kind = type(value)
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return encoded(value.item(), depth + 1)
    if kind.__module__ in ("decimal", "fractions"):
        for plain in (int, float):
            if plain(value) == value:
                return encoded(plain(value))
    return tagged("opaque", quoted(str(kind.__name__)))


def tagged(kind, text):
    return f'{{"t":"{kind}","v":{text}}}'


def joined(*texts):
    return "[" + ",".join(texts) + "]"


def members(values, depth):
    return joined(*[encoded(item, depth + 1) for item in values])


def reply_of(value):
    try:
        return tagged("value", encoded(value))
    except (RecursionError, ValueError, TypeError, AttributeError, ArithmeticError):
        return tagged("value", tagged("opaque", quoted("value that cannot be read")))


def error_of(error):
    """Return the exception's name and message. Its `__str__` is the program's code and may itself raise."""
    try:
        message = str(error)[:500]
    except BaseException:
        message = ""
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"), "Exception")
    return tagged("error", joined(quoted(str(type(error).__name__)), quoted(name), quoted(message)))


def limit(limits):
    """Set the resource limits. An unprivileged process cannot raise them again."""
    import resource

    for name, soft_and_hard in limits.items():
        resource.setrlimit(getattr(resource, name), soft_and_hard)


def quiet_stdin(request_fd):
    """Move the judge's channel away from descriptor 0, so that the program reads an empty stdin there."""
    channel_fd = os.dup(request_fd)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel_fd


def serve(channel):
    """Answer requests until the judge closes the channel."""
    program = type(sys)("program")
    sys.modules["program"] = program  # not `__main__`: its main block, which may wait for input, is not run
    channel.write(tagged("ready", "null"))
    while True:
        request = channel.read()
        try:
            reply = answered(request, program.__dict__, channel)
        except BaseException as error:  # SystemExit and KeyboardInterrupt too
            reply = error_of(error)
        channel.write(reply)


def answered(request, names, channel):
    """Return the reply to one request. Exceptions of the program are not caught here."""
    kind, *rest = request
    if kind == "exec":
        exec(compile(rest[0], "<program>", "exec", dont_inherit=True), names)
        return tagged("value", "null")
    if kind == "eval":
        return reply_of(eval(compile(rest[0], "<check>", "eval", dont_inherit=True), names))
    if kind == "call":
        name, args, kwargs = rest
        value = eval(name, names)(*args, **kwargs)  # a name that is missing is a NameError
        return tagged("returned", joined(reply_of(value), reply_of(args)))
    if kind == "judge":
        return judged(rest[0], rest[1], rest[2], channel)
    exec(compile(rest[0], "<harness>", "exec", dont_inherit=True), names)  # kind == "inside": in this process
    return reply_of(channel.read())  # until now the token was in the pipe, where the program's frames do not show it


def judged(harness, program_names, module_names, channel):
    """Run the harness in a process without the program. It calls the program's functions through the judge."""
    names: dict = {"__name__": "harness"}
    for name in module_names:
        names[name] = __import__(name)
    for name in program_names:
        names[name] = remote(name, channel)
    exec(compile(harness, "<harness>", "exec", dont_inherit=True), names)
    return tagged("value", "null")


class Opaque:
    """Placeholder for a value that cannot be sent out of the program's process. It equals nothing but itself."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return f"<{self.kind}>"


def remote(name, channel):
    """Return a function that calls `name` in the program's process."""
    import builtins

    def call(*args, **kwargs):
        channel.write(tagged("call", joined(quoted(name), reply_of(args), reply_of(kwargs))))
        kind, *rest = channel.read()
        if kind == "raised":
            base = getattr(builtins, rest[0], Exception)
            if not (isinstance(base, type) and issubclass(base, Exception)):
                base = Exception
            if issubclass(base, (StopIteration, StopAsyncIteration)):
                base = RuntimeError  # StopIteration would silently end a loop or generator of the harness
            raise base(rest[1])
        if kind == "opaque":
            return Opaque(rest[0])
        value, after = rest
        for argument, changed in zip(args, after, strict=True):
            write_back(argument, changed)
        return value

    return call


def write_back(argument, changed):
    """Copy in-place changes of an argument back, since a harness may check them."""
    if type(argument) is not type(changed) or argument == changed:
        return
    if isinstance(argument, list):
        argument[:] = changed
    elif isinstance(argument, (dict, set)):
        argument.clear()
        argument.update(changed)


def main():
    channel = Channel(quiet_stdin(0), int(sys.argv[1]))
    config = channel.read()
    sys.path.extend(config["package_paths"])
    limit(config["limits"])
    serve(channel)


if __name__ == "__main__":
    main()
