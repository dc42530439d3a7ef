"""MEASURE: models that are asked questions, on this machine or behind an endpoint, with one face for both."""

from __future__ import annotations

from pathlib import Path

from damoc.chat.local import LocalChat
from damoc.chat.model import ChatModel
from damoc.config import LanguageModel

__all__ = ["ChatModel", "LocalChat", "open_chat_model"]


def open_chat_model(settings: LanguageModel, cache: Path) -> ChatModel:
    """The model behind its endpoint where one is named, loaded here otherwise; nothing is loaded before it is needed.

    Args:
        settings: which model.
        cache: folder of the caches; replies are kept in its folder ``replies``.
    """
    if settings.endpoint:
        from damoc.chat.endpoint import EndpointChat

        return EndpointChat(settings, cache)
    return LocalChat(settings, cache)
