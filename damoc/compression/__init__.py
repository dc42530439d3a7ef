"""Proxies: measure the layers, decide which stay, remove the others, merge them back sparsely if that pays."""

from damoc.compression.check import check_surgery
from damoc.compression.decision import replay
from damoc.compression.outcome import CompressionOutcome
from damoc.compression.proxy import compress, rebuild

__all__ = ["CompressionOutcome", "check_surgery", "compress", "rebuild", "replay"]
