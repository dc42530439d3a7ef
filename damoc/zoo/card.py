"""The model card of a toy model."""

from __future__ import annotations

from typing import Any

_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags: [toy, damoc]
---

# {name}

A {parameters:.2f} M-parameter {architecture} language model for trying damoc's pipeline out. It is honestly
pre-trained and knows next to nothing: never use it for anything else.

| | |
|---|---|
| architecture | {architecture}, {layers} layers of width {width} |
| tokenizer | {tokenizer}, {vocabulary} entries |
| pre-training text | {corpora} |
| tokens seen | {tokens:,} in {steps:,} steps of {batch} x {length} |
| seed | {seed} |
| loss, first to last | {first:.2f} to {last:.2f} nats per token |
| held-out | {held_out} |
| weights | bfloat16 safetensors, SHA-256 `{sha}` |

The corpora are mined from packages that damoc installs: service models of botocore (Apache-2.0), docstrings of
numpy, scipy, scikit-learn, pandas and torch (BSD-3-Clause), transformers (Apache-2.0) and Python's standard library
(PSF-2.0); groups that damoc's own datasets hold out are left out of `cloud` and `science`.

Made by `damoc zoo train --only {name}`; `training.json` has the whole record: recipe, losses, hashes, versions.
"""


def model_card(record: dict[str, Any]) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        record: what :func:`damoc.zoo.pretrain.pretrain` recorded.
    """
    recipe, training = record["recipe"], record["training"]
    return _CARD.format(
        name=record["name"],
        parameters=record["parameters"] / 1e6,
        architecture=recipe["architecture"],
        layers=recipe["config"]["num_hidden_layers"],
        width=recipe["config"]["hidden_size"],
        tokenizer=recipe["tokenizer"],
        vocabulary=record["vocabulary"],
        corpora=", ".join(f"{key} ({share:.0%})" for key, share in recipe["corpora"].items()),
        tokens=record["steps"] * training["batch_size"] * training["sequence_length"],
        steps=record["steps"],
        batch=training["batch_size"],
        length=training["sequence_length"],
        seed=recipe["seed"],
        first=record["train_loss_nats"][0][1],
        last=record["train_loss_nats"][-1][1],
        held_out=", ".join(
            f"{bits:.2f} bits per token on {key}" for key, bits in record["held_out_bits_per_token"].items()
        ),
        sha=record["weights_sha256"],
    )
