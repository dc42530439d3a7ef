"""Proxies: measure the layers, decide which stay, remove the others, merge them back sparsely if that pays."""

from damoc.compression.check import check_surgery
from damoc.compression.decision import replay
from damoc.compression.outcome import CompressionOutcome
from damoc.compression.proxy import ProxyMaker, compress, rebuild, rules_of

__all__ = ["CompressionOutcome", "ProxyMaker", "check_surgery", "compress", "rebuild", "replay", "rules_of"]
