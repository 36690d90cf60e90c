"""The one family of errors that the command line turns into a paragraph.

LoraNsError            exit 1: the work failed
├── InputError         exit 2: what the user gave is wrong
│   ├── ConfigError        a config or experiment file
│   └── DataError          rows, columns, labels, templates
├── DamagedError       an artefact is not what its record says
├── TrainingError      a loss that is not finite, a method that changed nothing
├── CheckpointError    what was trained so far cannot be kept, as on a full disk
├── EvaluationError    scoring could not be done (never: the model answered wrongly)
├── SandboxError       generated code could not be isolated
├── Busy               another process is at this very work
└── Interrupted        exit 75: told to stop; what was done is kept, and called again the work goes on
"""

from __future__ import annotations


class LoraNsError(Exception):
    """The work failed; the message is the paragraph that the user reads."""

    exit_status = 1


class InputError(LoraNsError):
    """What the user gave is wrong."""

    exit_status = 2


class ConfigError(InputError):
    """A config or experiment file is wrong; `problems` holds one line for each fault."""

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def of(self, where: object) -> ConfigError:
        """The same faults, each naming where it is, if it does not yet."""
        return ConfigError([fault if str(where) in fault else f"{where}: {fault}" for fault in self.problems])


class DataError(InputError):
    """Rows, columns, labels or templates do not fit."""


class DamagedError(LoraNsError):
    """An artefact is not what its record says, so it is not used."""


class TrainingError(LoraNsError):
    """Training did not give a usable adapter."""


class CheckpointError(LoraNsError):
    """A checkpoint cannot be written."""


class EvaluationError(LoraNsError):
    """Scoring could not be done."""


class SandboxError(LoraNsError):
    """Generated code could not be isolated, or the isolation itself failed."""


class Busy(LoraNsError):
    """Another process is at this very work."""


class Interrupted(LoraNsError):
    """The process was told to stop; what was done is kept."""

    exit_status = 75
