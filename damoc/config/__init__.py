"""SelectionConfig: one YAML file says everything that a selection depends on.

Every section forbids unknown keys; :func:`load_config` reports all problems at once, each with its file, its
field and its mend. ``SelectionConfig.model_json_schema()`` is the JSON schema for editors.
"""

from __future__ import annotations

from damoc.config.data_compression import (
    CondenseConfig,
    DataCompression,
    FilterConfig,
    GateConfig,
    GateThresholds,
    LanguageModel,
    LocalModel,
    RepairConfig,
    SignalModels,
    TokenRates,
)
from damoc.config.dataset import DatasetConfig, Fields, RowLimits, SplitFractions, SplitSources
from damoc.config.reading import load_config, parse_config, read_yaml, resolve_paths
from damoc.config.selection import (
    BertScoreConfig,
    Candidate,
    EvaluationConfig,
    MergeConfig,
    ModelCompression,
    SelectionConfig,
    TrackingConfig,
    TrainJobConfig,
    TuningBudget,
    TuningConfig,
)

__all__ = [
    "BertScoreConfig",
    "Candidate",
    "CondenseConfig",
    "DataCompression",
    "DatasetConfig",
    "EvaluationConfig",
    "Fields",
    "FilterConfig",
    "GateConfig",
    "GateThresholds",
    "LanguageModel",
    "LocalModel",
    "MergeConfig",
    "ModelCompression",
    "RepairConfig",
    "RowLimits",
    "SelectionConfig",
    "SignalModels",
    "SplitFractions",
    "SplitSources",
    "TokenRates",
    "TrackingConfig",
    "TrainJobConfig",
    "TuningBudget",
    "TuningConfig",
    "load_config",
    "parse_config",
    "read_yaml",
    "resolve_paths",
]
