"""Base class of all config sections."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A section of a config. Unknown keys are errors, and values are not converted to another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)
