"""Runs inside the sandbox: executes a program, answers with plain values.  Never imported by the package.

Requests come as length-prefixed `marshal` (the judge is trusted), replies leave as length-prefixed JSON (this process
is not).  Only values leave; what they are compared with never comes in.  A program may overwrite anything here: all it
can say is still a value, which the judge outside compares with what was expected.
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
                os._exit(0)  # the judge has heard enough
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, text):
        data = text.encode("ascii")
        data = len(data).to_bytes(4, "big") + data
        while data:
            data = data[os.write(self.reply_fd, data) :]


def encoded(value, depth=0):
    """JSON of a plain value; a subclass counts as its base, as `==` takes it; anything else is only named."""
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
    """numpy's scalars, Decimal and Fraction as the plain number that they equal."""
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
    """The exception's name and message; an exception may itself be hostile."""
    try:
        message = str(error)[:500]
    except BaseException:
        message = ""
    name = next((kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"), "Exception")
    return tagged("error", joined(quoted(str(type(error).__name__)), quoted(name), quoted(message)))


def limit(limits):
    """Without privileges they cannot be raised again."""
    import resource

    for name, soft_and_hard in limits.items():
        resource.setrlimit(getattr(resource, name), soft_and_hard)


def quiet_stdin(request_fd):
    """The judge's channel leaves descriptor 0; the program reads an empty input there."""
    channel_fd = os.dup(request_fd)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return channel_fd


def serve(channel):
    """Answers requests until the judge closes the channel."""
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
    """The reply to one request; what the program raises goes through."""
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
    exec(compile(rest[0], "<harness>", "exec", dont_inherit=True), names)  # kind == "inside": beside the program
    return reply_of(channel.read())  # the token lay in the pipe meanwhile, not in a frame above the program


def judged(harness, program_names, module_names, channel):
    """Runs the harness in a process without the program, which it calls through the judge."""
    names: dict = {"__name__": "harness"}
    for name in module_names:
        names[name] = __import__(name)
    for name in program_names:
        names[name] = remote(name, channel)
    exec(compile(harness, "<harness>", "exec", dont_inherit=True), names)
    return tagged("value", "null")


class Opaque:
    """A value that could not leave the program's process: equal to nothing."""

    def __init__(self, kind):
        self.kind = kind

    def __repr__(self):
        return f"<{self.kind}>"


def remote(name, channel):
    """A function that runs in the program's process."""
    import builtins

    def call(*args, **kwargs):
        channel.write(tagged("call", joined(quoted(name), reply_of(args), reply_of(kwargs))))
        kind, *rest = channel.read()
        if kind == "raised":
            base = getattr(builtins, rest[0], Exception)
            if not (isinstance(base, type) and issubclass(base, Exception)):
                base = Exception
            if issubclass(base, (StopIteration, StopAsyncIteration)):
                base = RuntimeError  # it would end the harness's own loops early, as generators know
            raise base(rest[1])
        if kind == "opaque":
            return Opaque(rest[0])
        value, after = rest
        for argument, changed in zip(args, after, strict=True):
            write_back(argument, changed)
        return value

    return call


def write_back(argument, changed):
    """A program may change its arguments in place, and a harness may look at them."""
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
