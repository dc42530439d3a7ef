"""The row that every stage of damoc speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from damoc.hashing import sha256_json


@dataclass(frozen=True)
class Example:
    """One supervised example.

    Args:
        id: unique within its dataset.
        instruction: what to do; may be empty when ``input`` says it.
        input: what to do it on; may be empty.
        output: the reference answer; never empty.
        choices: the closed set of answers, empty for free-form answers; ``output`` is one of them.
        aliases: further right answers, as they are graded; never trained on.
        group: rows of one group (document, service, module) never stand in different splits.
        meta: source, licence and whatever else came with the row; not part of the fingerprint.
    """

    id: str
    instruction: str
    input: str
    output: str
    choices: tuple[str, ...] = ()
    group: str = ""
    aliases: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """What the row says, without its name and provenance."""
        return {
            "instruction": self.instruction,
            "input": self.input,
            "output": self.output,
            "choices": list(self.choices),
            **({"aliases": list(self.aliases)} if self.aliases else {}),
        }

    def content_hash(self) -> str:
        """SHA-256 (64 hex digits) of :meth:`content`."""
        return sha256_json(self.content())

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object; :meth:`from_json` reads it back."""
        return {"id": self.id, **self.content(), "group": self.group, "meta": dict(self.meta)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Example:
        """Reads a row that :meth:`to_json` wrote."""
        return cls(
            id=row["id"],
            instruction=row["instruction"],
            input=row["input"],
            output=row["output"],
            choices=tuple(row.get("choices", ())),
            group=row.get("group", ""),
            aliases=tuple(row.get("aliases", ())),
            meta=row.get("meta", {}),
        )

    def with_text(self, instruction: str, input: str, output: str) -> Example:
        """The same row with other text, as condensing makes it."""
        return replace(self, instruction=instruction, input=input, output=output)
