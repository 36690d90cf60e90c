"""The statistics of the tables, as pure functions of arrays with their formulas and sources."""

from lora_ns.reporting.statistics.calibration_error import Calibration, calibration
from lora_ns.reporting.statistics.difference import (
    ALPHA,
    Difference,
    decide,
    detectable_difference,
    example_difference,
    holm,
    seed_difference,
    sign_flip_test,
    two_way_difference,
)
from lora_ns.reporting.statistics.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    bca_interval,
    example_standard_error,
    t_interval,
    wilson_interval,
)
from lora_ns.reporting.statistics.metrics import LABEL_METRICS, TOKEN_METRICS, mean, pseudo_values
from lora_ns.reporting.statistics.over_tasks import average_ranks, interquartile_mean, pareto_front
