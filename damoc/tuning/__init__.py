"""LoRA fine-tuning of the proxies."""

from damoc.tuning.lora import TuningOutcome, fine_tune

__all__ = ["TuningOutcome", "fine_tune"]
