"""What every section of a config has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Forbids unknown keys, infinities and changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
