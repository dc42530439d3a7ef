"""Fine-tuning of the proxies: adapters, adapters on four-bit weights, or all weights."""

from damoc.tuning.checkpoint import Checkpoints
from damoc.tuning.loop import TuningOutcome, fine_tune
from damoc.tuning.probe import ProbedRate, best_rate, probe_learning_rates
from damoc.tuning.weights import load_tuned, open_proxy, save_tuned, with_adapter

__all__ = [
    "Checkpoints",
    "ProbedRate",
    "TuningOutcome",
    "best_rate",
    "fine_tune",
    "load_tuned",
    "open_proxy",
    "probe_learning_rates",
    "save_tuned",
    "with_adapter",
]
