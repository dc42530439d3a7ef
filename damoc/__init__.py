"""damoc: which open LLM will be best after fine-tuning on our data?

``select(config)`` runs a whole selection and returns a :class:`damoc.launch.Selection`; ``load_config`` reads a YAML
config; ``load_dataset`` reads data the way a selection does. Names are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from damoc.config import SelectionConfig, load_config
    from damoc.data.dataset import Dataset, load_dataset
    from damoc.errors import DamocError
    from damoc.launch import Selection, load_selection, select

__version__ = "0.1.0"

_HOMES = {
    "Dataset": "damoc.data.dataset",
    "DamocError": "damoc.errors",
    "Selection": "damoc.launch",
    "SelectionConfig": "damoc.config",
    "load_config": "damoc.config",
    "load_dataset": "damoc.data.dataset",
    "load_selection": "damoc.launch",
    "select": "damoc.launch",
}

__all__ = [
    "DamocError",
    "Dataset",
    "Selection",
    "SelectionConfig",
    "load_config",
    "load_dataset",
    "load_selection",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
