"""Trains the tokenizers of the zoo with the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from damoc.zoo.recipes import TokenizerRecipe

BOS, EOS, PAD, UNK = "<s>", "</s>", "<pad>", "<unk>"
_WORDS = r"▁*[^▁\W\d_]+|▁*\d|▁*[^▁\w]|▁+|_"


def train_tokenizer(recipe: TokenizerRecipe, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A fast tokenizer that encodes any Unicode text and decodes it back.

    Args:
        recipe: kind and size.
        texts: training texts.

    Returns:
        Tokenizer with beginning, end and padding tokens of its own.
    """
    if recipe.kind == "byte_level_bpe":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        special = [BOS, EOS, PAD]
        trainer = trainers.BpeTrainer(
            vocab_size=recipe.vocab_size,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        unk = None
    else:
        core = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True, fuse_unk=True))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
        core.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        special = [BOS, EOS, PAD, UNK, *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(
            vocab_size=recipe.vocab_size, special_tokens=special, limit_alphabet=120, show_progress=False
        )
        unk = UNK
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
