"""Exceptions whose message the command line prints, with their exit status.

LoraNsError            exit 1: the work failed
├── InputError         exit 2: wrong input from the user
│   ├── ConfigError        a config or experiment file
│   └── DataError          rows, columns, labels, templates
├── DamagedError       an artefact differs from its record
├── TrainingError      a loss that is not finite, a method that changed nothing
├── CheckpointError    a checkpoint cannot be saved, as on a full disk
├── EvaluationError    scoring failed (never: the model answered wrongly)
├── SandboxError       generated code could not be isolated
├── Busy               another process is doing the same work
└── Interrupted        exit 75: stopped by a signal; finished work is saved, and the same command resumes
"""

from __future__ import annotations


class LoraNsError(Exception):
    """The work failed. The message is printed for the user."""

    exit_status = 1


class InputError(LoraNsError):
    """The user's input is wrong."""

    exit_status = 2


class ConfigError(InputError):
    """A config or experiment file is wrong; `problems` has one line per error."""

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def of(self, where: object) -> ConfigError:
        """Return the same errors, each prefixed with `where` unless its text already contains it."""
        return ConfigError([fault if str(where) in fault else f"{where}: {fault}" for fault in self.problems])


class DataError(InputError):
    """Rows, columns, labels or templates do not fit."""


class DamagedError(LoraNsError):
    """An artefact differs from its record, so it is not used."""


class TrainingError(LoraNsError):
    """Training did not give a usable adapter."""


class CheckpointError(LoraNsError):
    """A checkpoint cannot be written."""


class EvaluationError(LoraNsError):
    """Scoring failed."""


class SandboxError(LoraNsError):
    """Generated code could not be isolated, or the isolation itself failed."""


class Busy(LoraNsError):
    """Another process is doing the same work."""


class Interrupted(LoraNsError):
    """The process was stopped by a signal. Finished work is saved."""

    exit_status = 75
