"""Row gradients, the Adam direction and the projection against autograd, PyTorch's Adam and exact cosines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from damoc.config import DataCompression
from damoc.data.example import Example
from damoc.data.prompts import encode
from damoc.models.batching import pad_batch
from damoc.signals.adam import AdamDirection, Checkpoint, WarmUp, warm_up
from damoc.signals.gradient import row_vectors
from damoc.signals.per_example import per_example_gradients, row_losses
from damoc.signals.projection import CountSketch
from damoc.signals.registry import SignalContext, measure_signals
from damoc.signals.warm_up import lora, lora_weights, put_weights

ROWS = [
    Example("a", "Which operation does this?", "Deletes a cache cluster and all of its nodes.", "DeleteCacheCluster"),
    Example("b", "Say it shortly.", "", "The cluster is created first, and its nodes follow within some minutes."),
    Example("c", "Is it true?", "A bucket holds objects.", "yes", ("no", "yes")),
    Example("d", "Which service is meant?", "Queues messages between programs of any size.", "sqs"),
]
MODELS = ["tiny-llama-cloud", "tiny-qwen2-cloud", "tiny-neox-stdlib", "tiny-gemma2-mixed"]


def stirred(model, scale=0.05):
    """Weights under which neither half of an adapter is zero."""
    generator = torch.Generator().manual_seed(5)
    weights = lora_weights(model)
    put_weights(model, {n: w + scale * torch.randn(w.shape, generator=generator) for n, w in weights.items()})
    return model


@pytest.mark.parametrize("name", MODELS)
def test_row_gradients_from_one_backward_pass_are_those_of_autograd_row_by_row(toy, name):
    loaded = toy(name)
    pad_id = loaded.tokenizer.pad_token_id
    encoded = [encode(loaded.tokenizer, row, 128) for row in ROWS]
    assert len({len(row.ids) for row in encoded}) > 1
    found = {}
    with lora(loaded.model, 4, 8, seed=1) as model:
        stirred(model)
        with per_example_gradients(model, lambda weight, gradients: found.update({weight: gradients.clone()})):
            row_losses(model, pad_batch(encoded, pad_id, "cpu")).sum().backward()
        assert set(found) == set(lora_weights(model))
        for place, row in enumerate(encoded):
            model.zero_grad()
            row_losses(model, pad_batch([row], pad_id, "cpu")).sum().backward()
            for weight, parameter in lora_weights(model).items():
                assert parameter.requires_grad
                assert torch.allclose(found[weight][place], parameter.grad.flatten(), rtol=1e-3, atol=1e-5), weight
                assert float(parameter.grad.abs().max()) > 1e-4


def test_the_direction_of_a_row_is_the_step_that_adam_takes_for_it():
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 5, generator=generator))
    adam = torch.optim.Adam([weight], lr=0.01)
    for _ in range(4):
        weight.grad = torch.randn(3, 5, generator=generator)
        adam.step()
    state = adam.state[weight]
    moments = {"w": state["exp_avg"].clone()}, {"w": state["exp_avg_sq"].clone()}
    direction = AdamDirection(Checkpoint({}, *moments, steps=4, rate=0.01), "cpu")
    gradient = torch.randn(3, 5, generator=generator)
    before = weight.detach().clone()
    weight.grad = gradient.clone()
    adam.step()
    (found,) = direction("w", gradient.flatten()[None])
    assert torch.allclose(before - 0.01 * found.view(3, 5), weight.detach(), atol=1e-7)


def test_the_direction_of_a_row_by_hand():
    checkpoint = Checkpoint({}, {"w": torch.tensor([0.2, 0.0])}, {"w": torch.tensor([0.04, 0.0])}, 1, 1.0)
    (found,) = AdamDirection(checkpoint, "cpu")("w", torch.tensor([[0.4, 0.0]])).double().numpy()
    mean = (0.9 * 0.2 + 0.1 * 0.4) / (1 - 0.9**2)
    square = (0.999 * 0.04 + 0.001 * 0.16) / (1 - 0.999**2)
    assert found == pytest.approx([mean / (square**0.5 + 1e-8), 0.0], rel=1e-5)


def test_the_warm_up_is_that_of_a_plain_loop_of_adam_steps(toy):
    loaded = toy("tiny-reference")
    pad_id = loaded.tokenizer.pad_token_id
    encoded = [encode(loaded.tokenizer, row, 128) for row in ROWS]
    settings = WarmUp(rank=2, alpha=4, learning_rate=0.01, warmup_fraction=0.0, epochs=2, batch_size=8, checkpoints=2)
    with lora(loaded.model, 2, 4, seed=3) as model:
        first, last = warm_up(model, encoded, pad_id, settings, seed=0)
    assert (first.steps, last.steps) == (1, 2)
    assert first.rate == pytest.approx(0.01)
    with lora(loaded.model, 2, 4, seed=3) as model:
        adam = torch.optim.Adam(lora_weights(model).values(), lr=first.rate)
        row_losses(model, pad_batch(encoded, pad_id, "cpu")).mean().backward()
        adam.step()
        for name, weight in lora_weights(model).items():
            assert torch.allclose(adam.state[weight]["exp_avg"], first.exp_avg[name], rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("outliers", [False, True], ids=["even", "with outliers"])
def test_the_projection_keeps_cosines(cosine, outliers):
    rng = np.random.default_rng(1)
    dimensions, pairs, widths = 1024, 200, {"short": 768, "long": 11264, "odd": 3001}
    first, noise = rng.standard_normal((2, pairs, sum(widths.values())))
    if outliers:
        first[:, ::96] *= 10
    second = cosine * first + np.sqrt(1 - cosine**2) * noise * np.linalg.norm(first, axis=1, keepdims=True) / 123
    sketch = CountSketch(dimensions, seed=7)

    def projected(values):
        blocks = np.split(values, np.cumsum(list(widths.values()))[:-1], axis=1)
        parts = [sketch(name, torch.from_numpy(block)) for name, block in zip(widths, blocks, strict=True)]
        return sum(parts).numpy()

    def cosines(a, b):
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    error = cosines(projected(first), projected(second)) - cosines(first, second)
    assert np.abs(error).max() < 4 / np.sqrt(dimensions)
    assert error.std() < 1.3 / np.sqrt(dimensions)
    assert np.abs(error).max() > 1e-4


def test_the_projection_of_a_block_is_a_sum_of_signed_coordinates_each_used_once():
    whole = CountSketch(8, seed=0)("block", torch.eye(20))
    assert whole.abs().sum(dim=1).tolist() == [1.0] * 20
    assert set(whole.abs().sum(dim=0).tolist()) <= {1.0, 2.0, 3.0}
    assert not torch.equal(whole, CountSketch(8, seed=1)("block", torch.eye(20)))
    assert not torch.equal(whole, CountSketch(8, seed=0)("another", torch.eye(20)))


def test_cosines_of_projected_row_gradients_are_those_of_the_whole_gradients(toy):
    loaded = toy("tiny-reference")
    encoded = [encode(loaded.tokenizer, row, 128) for row in ROWS]
    pad_id = loaded.tokenizer.pad_token_id
    with lora(loaded.model, 8, 16, seed=1) as model:
        stirred(model)
        short = row_vectors(model, encoded, pad_id, CountSketch(4096, 0))
        whole = []
        for row in encoded:
            model.zero_grad()
            row_losses(model, pad_batch([row], pad_id, "cpu")).sum().backward()
            gradient = torch.cat([weight.grad.flatten() for weight in lora_weights(model).values()])
            whole.append((gradient / gradient.norm()).numpy())
    assert np.abs(short @ short.T - np.stack(whole) @ np.stack(whole).T).max() < 4 / np.sqrt(4096)


def test_a_validation_row_that_also_stands_in_the_pool_is_the_most_influential(zoo: Path, tmp_path: Path):
    services = ["sqs", "s3", "ec2", "iam", "rds", "kms", "sns", "ecs"]
    pool = [
        Example(f"{service}-{verb}", f"Which operation of {service} does this?", f"It {verb}s one {noun}.", verb + noun)
        for service, noun in zip(services, "queue bucket node user table key topic task".split(), strict=True)
        for verb in ("delete", "create", "list", "update")
    ]
    target = Example("target", "Say what the cache is for.", "", "It keeps what was read, so that it is near.")
    pool.insert(11, Example("twin", target.instruction, target.input, target.output))
    config = DataCompression.model_validate({"condense": {"compressor": str(zoo / "tiny-reference")}})
    context = SignalContext(pool, [target], config, tmp_path)
    measured = measure_signals(["gradient", "target_gradient"], context)
    influence = (measured["gradient"] @ measured["target_gradient"].T)[:, 0]
    assert int(influence.argmax()) == 11
    assert influence[11] > np.sort(influence)[-2] + 0.1
