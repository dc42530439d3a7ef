"""Checkpoints pruned and merged on disk, beside the same done to a loaded model."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from damoc.compression import compress
from damoc.compression.sharded import prune_checkpoint
from damoc.compression.sharded_merge import stored_merge
from damoc.config import MergeConfig, ModelCompression
from damoc.errors import CandidateError, DamocError
from damoc.models.checkpoint import INDEX, Checkpoint

BATCH = {
    "input_ids": torch.randint(3, 99, (4, 20), generator=torch.Generator().manual_seed(1)),
    "attention_mask": torch.ones(4, 20, dtype=torch.long),
}
FAMILIES: dict[str, Any] = {
    "llama": transformers.LlamaConfig,
    "gpt_neox": transformers.GPTNeoXConfig,
    "gemma2": transformers.Gemma2Config,
}


def save(folder: Path, family: str = "llama", seed: int = 3) -> Any:
    torch.manual_seed(seed)
    size = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 8}
    more = {"vocab_size": 99, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    more |= {"head_dim": 8, "num_key_value_heads": 2} if family == "gemma2" else {}
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](**size, **more)).to(torch.bfloat16).eval()
    model.save_pretrained(folder, max_shard_size="20KB")
    return model


def scripted(*losses: float) -> Any:
    values = iter(losses)
    return lambda model: next(values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("method", "sparsifier"),
    [
        ("none", "magnitude"),
        ("rdsc_sparse", "magnitude"),
        ("rdsc_sparse", "ties"),
        ("rdsc_sparse", "dare"),
        ("instruct_delta", "dare"),
        ("linear_patch", "magnitude"),
    ],
)
def test_files_have_the_bits_of_a_loaded_model(tmp_path: Path, family: str, method: str, sparsifier: str) -> None:
    from damoc.compression.merge import base_weights

    model = save(tmp_path / "whole", family)
    save(tmp_path / "base", family, seed=4)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "whole")
    merge = MergeConfig(method=method, sparsifier=sparsifier, density=0.2, scales=[0.25])
    settings = ModelCompression(merge=merge)
    base = base_weights(model, str(tmp_path / "base"), None)
    outcome = compress(model, settings, [BATCH], scripted(4.0, 4.5, 4.3), 0, 11, base=base, fit_batches=[BATCH])
    record = {**outcome.to_json(), "seed": 11}
    patched = family != "gemma2" or method != "linear_patch"
    assert record["merge"]["accepted"] is (method != "none" and patched)

    whole, out = Checkpoint(str(tmp_path / "whole")), tmp_path / "out"
    assert len(whole.files) > 3
    out.mkdir()
    rewrite = stored_merge(whole, config, record, merge, outcome.patches, Checkpoint(str(tmp_path / "base")))
    calls: list[tuple[int, int]] = []
    prune_checkpoint(whole, config, record["plan"]["keep"], out, rewrite, lambda *call: calls.append(call))
    assert calls[-1][0] == calls[-1][1]

    again = transformers.AutoModelForCausalLM.from_pretrained(out)
    expected, found = model.state_dict(), again.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    for name, value in model.config.to_dict().items():
        if name not in ("_name_or_path", "dtype", "transformers_version", "architectures"):
            assert again.config.to_dict()[name] == value, name


def test_written_shards_follow_the_format(tmp_path: Path) -> None:
    save(tmp_path / "whole")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "whole")
    (tmp_path / "out").mkdir()
    whole = Checkpoint(str(tmp_path / "whole"))
    prune_checkpoint(whole, config, [0, 3, 7], tmp_path / "out")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [file.name for file in shards] == [
        f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)
    ]
    names = {name: file.name for file in shards for name in load_file(file)}
    assert names == index["weight_map"]
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"0", "1", "2"}
    loaded = {name: value for file in shards for name, value in load_file(file).items()}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in loaded.values())
    assert torch.equal(loaded["model.layers.1.mlp.up_proj.weight"], whole.tensor("model.layers.3.mlp.up_proj.weight"))
    for file in shards:
        with file.open("rb") as stream:
            assert struct.unpack("<Q", stream.read(8))[0] % 8 == 0


def test_names_that_differ_from_the_model_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "whole", "gpt_neox")
    (tmp_path / "out").mkdir()
    config = FAMILIES["llama"](num_hidden_layers=8, hidden_size=32, num_attention_heads=4, vocab_size=99)
    with pytest.raises(CandidateError, match="0 of 8 layers were found"):
        prune_checkpoint(Checkpoint(str(tmp_path / "whole")), config, [0, 1], tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("damage", ["cut header", "cut data", "no json", "huge header", "missing shard", "bad index"])
def test_damaged_checkpoints_are_refused(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "whole")
    (first, *_) = sorted((tmp_path / "whole").glob("*.safetensors"))
    raw = first.read_bytes()
    broken = {
        "cut header": raw[:20],
        "cut data": raw[:-2],
        "no json": raw[:8] + b"?" * (len(raw) - 8),
        "huge header": struct.pack("<Q", 1 << 60) + raw[8:],
    }
    if damage in broken:
        first.write_bytes(broken[damage])
    elif damage == "missing shard":
        first.unlink()
    else:
        (tmp_path / "whole" / INDEX).write_text("[]")
    with pytest.raises(DamocError):
        Checkpoint(str(tmp_path / "whole"))


def test_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "whole")
    (first, *_) = sorted((tmp_path / "whole").glob("*.safetensors"))
    shutil.copy(first, tmp_path / "outside.safetensors")
    index = json.loads((tmp_path / "whole" / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../outside.safetensors")
    (tmp_path / "whole" / INDEX).write_text(json.dumps(index))
    with pytest.raises(DamocError, match=r"outside\.safetensors is missing"):
        Checkpoint(str(tmp_path / "whole"))


def test_a_file_that_ends_early_and_a_weight_that_cannot_be_computed_stop_the_writing(tmp_path: Path) -> None:
    save(tmp_path / "whole")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "whole")
    whole = Checkpoint(str(tmp_path / "whole"))

    def fail(layer: int, name: str) -> None:
        raise MemoryError(f"{layer} {name}")

    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
    with pytest.raises(MemoryError, match=r"\d .+weight"):
        prune_checkpoint(whole, config, [0, 3, 7], tmp_path / "one", fail)
    with whole.files[-1].open("r+b") as stream:
        stream.truncate(whole.files[-1].stat().st_size - 1)
    with pytest.raises(OSError, match="ended while it was copied"):
        prune_checkpoint(whole, config, [0, 3, 7], tmp_path / "other")
    assert not list(tmp_path.glob("o*/config.json"))
