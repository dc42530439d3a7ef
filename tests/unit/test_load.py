from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn.modules import Linear4bit
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from damoc.errors import DamocError
from damoc.models.load import check_model_files, load_model, model_identity

TOYS = sorted(path.name for path in (Path(__file__).parents[2] / "zoo").glob("tiny-*"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(zoo: Path, tmp_path: Path) -> Path:
    """A toy model of its own, to be broken."""
    return Path(shutil.copytree(zoo / "tiny-reference", tmp_path / "model"))


def refusal(source: Path | str, revision: str | None = None) -> str:
    with pytest.raises(DamocError) as caught:
        load_model(str(source), revision)
    (problem,) = caught.value.problems
    assert problem.where == str(source)
    assert problem.fix
    return problem.what


def test_a_toy_model_loads_ready_for_use(folder):
    loaded = load_model(str(folder))
    assert not loaded.model.training
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert loaded.tokenizer.pad_token_id is not None
    assert loaded.max_length == json.loads((folder / "config.json").read_text())["max_position_embeddings"]


def test_the_weights_come_in_the_type_that_is_asked_for(folder):
    assert next(load_model(str(folder), dtype="bfloat16").model.parameters()).dtype == torch.bfloat16


def test_pickled_weights_are_refused_and_never_opened(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights only (pytorch_model.bin)" in refusal(folder)


def test_a_pickle_beside_safetensors_is_not_read(folder):
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    load_model(str(folder))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", "no .safetensors weights"),
        ("tokenizer.json", "has no tokenizer"),
        ("config.json", "has no config.json"),
    ],
)
def test_a_missing_file_is_named(folder, name, says):
    (folder / name).unlink()
    assert says in refusal(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"junk" * 30),
        ("model.safetensors", b""),
        ("tokenizer.json", b"{}"),
        ("tokenizer.json", b'{"version": 1, "model": {"type": "none"}, "added_tokens": []}'),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "unheard-of"}'),
    ],
)
def test_a_broken_file_is_one_clear_error(folder, name, content):
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith("the model cannot be loaded: ")


def test_a_cut_off_weights_file_is_one_clear_error(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "cannot be loaded" in refusal(folder)


def test_weights_that_are_not_there_are_never_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder) == "1 weights of the model are missing, the first is model.layers.2.mlp.up_proj.weight"


def test_weights_of_another_shape_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"][:5].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert "cannot be loaded" in refusal(folder)


@pytest.mark.parametrize("name", TOYS)
def test_a_tokenizer_does_what_its_file_says_whatever_the_architecture(toy, zoo, name):
    text = "Deletes the cluster, 東京 😀.  And 12345 don't\n\n x_y (z)"
    tokenizer = toy(name).tokenizer
    ids = tokenizer(text)["input_ids"]
    assert ids == Tokenizer.from_file(str(zoo / name / "tokenizer.json")).encode(text).ids
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_of_another_kind_than_tokenizer_json_still_loads(folder):
    parts = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(parts["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in parts["merges"]))
    (folder / "tokenizer.json").unlink()
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": "GPT2Tokenizer"}))
    tokenizer = load_model(str(folder)).tokenizer
    assert tokenizer.decode(tokenizer("Deletes the cluster.")["input_ids"]) == "Deletes the cluster."


def test_a_tokenizer_without_padding_pads_with_its_end(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    loaded = load_model(str(folder))
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id


def test_a_tokenizer_without_any_special_token_still_pads(folder):
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if not key.endswith("_token")}))
    assert load_model(str(folder)).tokenizer.pad_token_id is not None


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:39], COMMIT.upper()])
def test_a_hub_id_without_a_pinned_commit_is_refused(revision):
    assert "without a pinned revision" in refusal("owner/name", revision)


def test_a_pinned_hub_id_passes_the_check_and_says_so_when_the_hub_is_out_of_reach():
    assert check_model_files("owner/name", COMMIT) is None
    assert "cannot be loaded" in refusal("owner/name", COMMIT)


@pytest.mark.parametrize("source", ["/no/such/folder", "./nowhere", "~/nowhere"])
def test_a_path_that_leads_nowhere_is_not_taken_for_a_hub_id(source):
    assert "does not exist" in refusal(source)


@pytest.mark.parametrize("source", ["name", "a/b/c", "https://example.org/model", "owner/na me"])
def test_what_is_neither_folder_nor_hub_id_is_refused(source):
    assert "neither a folder nor a hub id" in refusal(source)


def test_code_from_the_folder_is_not_run_unless_asked_for(folder, tmp_path):
    trace = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded" in refusal(folder)
    assert not trace.exists()


def test_running_out_of_memory_is_not_blamed_on_the_files(folder, monkeypatch):
    import transformers

    def out_of_memory(*args, **options):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", out_of_memory)
    with pytest.raises(MemoryError):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_the_identity_of_a_model_changes_with_its_files(folder, name):
    before = model_identity(str(folder), None)
    with (folder / name).open("ab") as handle:
        handle.write(b" ")
    assert model_identity(str(folder), None) != before


def test_the_identity_of_a_model_covers_the_code_that_it_brings(folder):
    before = model_identity(str(folder), None)
    (folder / "modeling.py").write_text("x = 1")
    assert model_identity(str(folder), None) != before


def test_the_identity_of_a_model_leaves_out_its_place_and_its_story(folder, tmp_path):
    before = model_identity(str(folder), None)
    moved = folder.rename(tmp_path / "moved")
    (moved / "README.md").write_text("another story")
    (moved / "training.json").write_text("{}")
    assert model_identity(str(moved), None) == before


def test_the_identity_of_a_hub_model_is_its_id_and_commit():
    assert len({model_identity(*pair) for pair in [("a/b", COMMIT), ("a/c", COMMIT), ("a/b", COMMIT[::-1])]}) == 3


@pytest.mark.parametrize("name", ["tiny-llama-cloud", "tiny-reference"])
def test_four_bits_give_the_logits_of_the_weights_they_stand_for_on_every_processor(zoo: Path, name: str) -> None:
    whole, quantised = (load_model(str(zoo / name), four_bit=bits).model for bits in (False, True))
    layers = {path: module for path, module in quantised.named_modules() if isinstance(module, Linear4bit)}
    for path, module in layers.items():
        whole.get_submodule(path).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        torch.testing.assert_close(quantised(ids).logits, whole(ids).logits, atol=0.1, rtol=0.01)
    assert len(layers) == 7 * whole.config.num_hidden_layers
