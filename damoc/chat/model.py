"""What every model that is asked questions can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

OnProgress = Callable[[int, int], None]


class ChatModel(Protocol):
    """A model that is asked; N prompts in, N replies out, in their order."""

    @property
    def identity(self) -> str:
        """What decides its replies: the hash of a local model, or endpoint and name."""

    @property
    def context(self) -> int | None:
        """Tokens that a prompt and its reply may take together; None where only the server knows."""

    def prompt_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Tokens that the model reads for each prompt, its chat template included; estimated behind an endpoint.

        Raises:
            DamocError: the local model cannot be loaded.
        """

    def complete(
        self,
        prompts: Sequence[str],
        max_tokens: int | Sequence[int],
        temperature: float = 0.0,
        seed: int = 0,
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[str | None]:
        """Replies in words.

        Args:
            prompts: N user messages; a prompt that is too long for a local model loses its start.
            max_tokens: longest reply in the model's tokens, one for all or one a prompt.
            temperature: 0 takes the likeliest token every time.
            seed: of the sampling; each prompt draws from a stream of its own, whatever it is asked with.
            on_progress: called with (prompts done, N).

        Returns:
            Stripped texts; None where no usable reply came after all tries.

        Raises:
            DamocError: the local model cannot be loaded.
            InfrastructureError: the endpoint cannot be reached or refuses.
        """

    def option_probabilities(
        self,
        prompts: Sequence[str],
        options: Sequence[str],
        on_progress: OnProgress = lambda done, total: None,
    ) -> NDArray[np.float64]:
        """How the model spreads its belief over short answers.

        Args:
            prompts: N user messages that ask for one of the options.
            options: distinct answers such as ``"0"`` to ``"5"``.
            on_progress: called with (prompts done, N).

        Returns:
            float64 (N, options), each row sums to 1; a row of NaN where no usable reply came.

        Raises:
            DamocError: the local model cannot be loaded.
            InfrastructureError: the endpoint cannot be reached or refuses.
        """
