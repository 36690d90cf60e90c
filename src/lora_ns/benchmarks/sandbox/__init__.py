"""Runs model-written programs in a sandbox and judges them from outside.

outcomes = run_checks([Program(code="def f(x): return x + 2", asserts=("assert f(2) == 4",))])
"""

from lora_ns.benchmarks.sandbox.program import Outcome, Program
from lora_ns.benchmarks.sandbox.selftest import check_sandbox, run_checks
