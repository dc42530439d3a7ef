"""Loads a candidate from a folder or the hub: safetensors only, pinned revisions, no surprise code."""

from __future__ import annotations

import re
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from damoc.errors import DamocError
from damoc.hashing import sha256_file, sha256_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from damoc.config import LocalModel

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_IDENTIFYING = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in evaluation mode with its tokenizer.

    Args:
        model: torch module with a language-modelling head.
        tokenizer: its tokenizer, with a padding token.
        max_length: longest sequence that the model was made for, in tokens.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    max_length: int


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the 40 hex digits of a commit."""
    return _COMMIT.fullmatch(revision or "") is not None


def check_model_files(source: str, revision: str | None) -> str | None:
    """What keeps a model from being loaded safely, or None; looks at files and names only.

    Args:
        source: folder or hub id.
        revision: commit, needed for a hub id.

    Returns:
        One sentence with a remedy, or None.
    """
    folder = Path(source)
    if not folder.is_dir():
        if source.startswith(("/", ".", "~")):
            return f"the folder {source} does not exist; check the path"
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            return f"{source!r} is neither a folder nor a hub id (owner/name)"
        if not is_commit(revision):
            return f"{source} is a hub id without a pinned revision; set 'revision' to its 40-digit commit"
        return None
    names = {path.name for path in folder.iterdir()}
    if "config.json" not in names:
        return f"{folder} has no config.json; point to a folder saved with save_pretrained"
    if not any(name.endswith(".safetensors") for name in names):
        pickled = sorted(name for name in names if name.endswith(_PICKLES))
        if pickled:
            return (
                f"{folder} holds pickled weights only ({pickled[0]}), which can run code when loaded; "
                "convert them with save_pretrained(safe_serialization=True)"
            )
        return f"{folder} has no .safetensors weights"
    if not names & {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model"}:
        return f"{folder} has no tokenizer; save it there with tokenizer.save_pretrained"
    return None


def model_identity(source: str, revision: str | None) -> str:
    """Content address of a model: SHA-256 over its files for a folder, over id and commit for a hub model."""
    folder = Path(source)
    if folder.is_dir():
        kept = sorted(path for path in folder.iterdir() if path.suffix in _IDENTIFYING)
        skip = {"training.json"}
        return sha256_json({path.name: sha256_file(path) for path in kept if path.name not in skip})
    return sha256_json({"hub": source, "revision": revision})


def load_model(
    source: str,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dtype: str = "float32",
    four_bit: bool = False,
    double_quant: bool = False,
    template: str = "auto",
    max_memory: Mapping[str, str] | None = None,
    on_cpu: bool = False,
) -> LoadedModel:
    """Loads weights (safetensors only) and tokenizer, on the GPU when there is one.

    Args:
        source: folder or hub id.
        revision: commit of a hub model.
        trust_remote_code: runs code from the repository.
        dtype: ``"float32"`` or ``"bfloat16"``.
        four_bit: stores the weights of linear layers in 4 bits (NF4 of bitsandbytes, computed in ``dtype``).
        double_quant: with ``four_bit``, quantises the scales of the blocks as well.
        template: ``"auto"`` keeps the tokenizer's chat template, ``"plain"`` drops it: rows are then put to the model
            in the plain form, whatever it was made for.
        max_memory: memory that weights may take on each device, ``{"0": "70GiB", "cpu": "100GiB"}``. GPUs are filled
            first, then the CPU; what is left stays on disk, and accelerate reads it layer by layer in each pass.
        on_cpu: keeps the weights off the GPU.

    Raises:
        DamocError: the model cannot be loaded safely.
    """
    if problem := check_model_files(source, revision):
        raise DamocError(problem, source, "mend the candidate's entry in the config")
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    quantised = {"quantization_config": _four_bits(dtype, double_quant)} if four_bit else {}
    offloaded = None if max_memory is None else tempfile.TemporaryDirectory(prefix="damoc-offload-")
    placed = _placement(max_memory, offloaded.name) if max_memory is not None and offloaded else {}
    try:
        tokenizer = load_tokenizer(source, **options)
        loading: Any = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            **options,
            **quantised,
            **placed,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # broken files raise whatever the Rust parsers of weights and tokenizers raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DamocError(
            f"the model cannot be loaded: {reason}",
            source,
            "check folder, id and revision, and that the hub can be reached",
        ) from error
    model, found = loading
    if offloaded:
        weakref.finalize(model, offloaded.cleanup)
    if absent := sorted(found["missing_keys"]):
        raise DamocError(
            f"{len(absent)} weights of the model are missing, the first is {absent[0]}",
            source,
            "save or download the whole checkpoint again",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    if template == "plain":
        tokenizer.chat_template = None
    model.eval()
    if four_bit:
        _leave_unpacked(model)
    elif torch.cuda.is_available() and not offloaded and not on_cpu:
        model.to("cuda")
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30
    return LoadedModel(model, tokenizer, int(limit))


def input_device(model: Any) -> str:
    """The device that a model's inputs belong on; weights that are offloaded are nowhere between passes."""
    return next((str(weight.device) for weight in model.parameters() if weight.device.type != "meta"), "cpu")


def load_local(model: LocalModel, template: str = "auto") -> LoadedModel:
    """Loads what a config names, see :func:`load_model`."""
    return load_model(model.model, model.revision, dtype=model.dtype, four_bit=model.four_bit, template=template)


def _placement(max_memory: Mapping[str, str], folder: str) -> dict[str, Any]:
    """Arguments of ``from_pretrained``; weights that it changes while it loads them are kept in the folder."""
    return {
        "device_map": "auto",
        "max_memory": {int(name) if name.isdecimal() else name: size for name, size in max_memory.items()},
        "offload_folder": folder,
    }


def _four_bits(dtype: str, double_quant: bool) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def _leave_unpacked(model: Any) -> None:
    """Keeps bitsandbytes from repacking weights for its AVX512-BF16 kernel.

    On processors with those instructions version 0.50 repacks them at the first forward pass without gradients. That
    fails unless they are whole tiles of 32 outputs and 64 inputs, and the kernel has no backward pass.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def load_tokenizer(source: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The tokenizer as its tokenizer.json has it.

    ``AutoTokenizer`` of transformers 5 may take the class of the architecture instead, which keeps the vocabulary but
    replaces splitting and decoding: such texts lose their spaces without a word (huggingface/transformers#48206).

    Args:
        source: folder or hub id.
        revision: commit of a hub model.
        trust_remote_code: runs code from the repository.

    Returns:
        A tokenizer of transformers.

    Raises:
        OSError: there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils.hub import cached_file

    options: dict[str, Any] = {"revision": revision}
    if not trust_remote_code:
        try:
            cached_file(source, "tokenizer.json", **options)
        except OSError:
            pass
        else:
            return PreTrainedTokenizerFast.from_pretrained(source, **options)
    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, **options)
