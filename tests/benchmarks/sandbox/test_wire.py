"""Values leave the sandbox unharmed, and nothing that it sends can harm the judge."""

import contextlib
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_ns.benchmarks.sandbox import child
from lora_ns.benchmarks.sandbox.wire import MEMBERS_PER_TABLE, Opaque, Unreadable, message_of, value_of

numbers = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
scalars = st.none() | numbers | st.text() | st.binary()
hashables = st.recursive(scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=6)
values = st.recursive(
    hashables,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.sets(hashables) | st.dictionaries(hashables, inner),
    max_leaves=12,
)


def sent(value):
    return value_of(json.loads(child.encoded(value)))


@given(values)
def test_a_plain_value_arrives_as_it_was(value):
    arrived = sent(value)
    assert arrived == value
    assert type(arrived) is type(value)
    assert repr(arrived) == repr(value) or isinstance(value, (set, frozenset, dict, list, tuple))


def test_special_numbers_arrive():
    assert sent(float("inf")) == float("inf")
    assert sent(float("nan")) != sent(float("nan"))
    assert sent(10**5000) == 10**5000
    assert str(sent(-0.0)) == "-0.0"


def test_a_subclass_counts_as_its_base_as_python_compares_it():
    from collections import Counter, OrderedDict, defaultdict, namedtuple
    from decimal import Decimal
    from fractions import Fraction

    import numpy as np

    class Forger(int):
        def __eq__(self, other):
            return True

        def __repr__(self):
            return "4"

        __hash__ = int.__hash__

    assert type(sent(Forger(3))) is int
    assert sent(Forger(3)) == 3
    assert sent(Counter("aab")) == {"a": 2, "b": 1}
    assert sent(OrderedDict(a=1)) == sent(defaultdict(int, a=1)) == {"a": 1}
    assert sent(namedtuple("P", "x y")(1, 2)) == (1, 2)
    assert sent({"a": 1}.keys()) == {"a"}
    assert sent(np.int64(3)) == 3
    assert sent(np.bool_(True)) is True
    assert sent(Decimal("1.5")) == sent(Fraction(3, 2)) == 1.5


@pytest.mark.parametrize("value", [object(), [1, object()], {1: range(3)}, map(str, []), lambda: 0])
def test_an_object_of_the_programs_own_equals_nothing(value):
    arrived = sent(value)
    assert isinstance(arrived, Opaque)
    assert arrived != value


kinds = st.sampled_from(["list", "tuple", "set", "frozenset", "dict", "int", "bytes", "complex", "opaque", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.fixed_dictionaries({"t": kinds, "v": inner}),
)


@given(json_values)
def test_a_forged_value_is_read_or_refused_in_one_way(wire):
    with contextlib.suppress(Unreadable):
        value_of(wire)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_forged_message_is_read_or_refused_in_one_way(frame):
    with contextlib.suppress(Unreadable):
        message_of(frame)


@pytest.mark.parametrize("depth", [150, 5_000, 200_000])
def test_deep_nesting_does_not_reach_the_judges_stack(depth):
    frame = b'{"t":"value","v":' + b'{"t":"list","v":[' * depth + b"]}" * depth + b"}"
    try:
        value_of(message_of(frame)[1])
    except Unreadable:
        assert depth > 150


def test_colliding_hashes_do_not_stall_the_judge():
    modulus = 2**61 - 1  # int hashes are taken modulo this prime: all these are 0
    members = [{"t": "int", "v": hex(modulus * number)} for number in range(1, 10 * MEMBERS_PER_TABLE)]
    started = time.monotonic()
    assert isinstance(value_of({"t": "set", "v": members}), Opaque)
    assert time.monotonic() - started < 2
