"""Turns raw rows into examples: columns to parts, every value checked, every problem named by file, row and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from damoc.config import DatasetConfig
from damoc.data.example import Example
from damoc.data.presets import PRESETS
from damoc.data.problems import Problems
from damoc.data.readers import Record, Table
from damoc.data.values import as_list, as_text, lookup

_LICENCES = ("licence", "license", "meta.licence", "meta.license")


@dataclass(frozen=True)
class Placed:
    """An example and the place it was read from."""

    where: str
    example: Example


def read_examples(tables: list[Table], config: DatasetConfig, problems: Problems) -> list[Placed]:
    """The examples of raw tables, in their order.

    Args:
        tables: raw rows.
        config: says which column is what.
        problems: gets whatever is wrong; a row with a problem is left out.
    """
    return [placed for table in tables for placed in _read_table(table, config, problems)]


def _read_table(table: Table, config: DatasetConfig, problems: Problems) -> Iterator[Placed]:
    records = _adapted(table, config, problems)
    output = config.fields.output
    if records and not any(_has(record.values, output) for record in records):
        columns = ", ".join(sorted({name for record in records[:100] for name in record.values}))
        fix = f"name the answers' column in dataset.fields.output; there is {columns}"
        problems.add(f"no row has the column {output!r}", table.where, fix)
        return
    for record in records:
        if (example := _example(record, table.name, config, problems)) is not None:
            yield Placed(record.where, example)


def _adapted(table: Table, config: DatasetConfig, problems: Problems) -> list[Record]:
    if config.preset is None:
        return table.records
    records = []
    for record in table.records:
        try:
            records.append(Record(record.where, PRESETS[config.preset].read(record.values)))
        except ValueError as error:
            fix = f"rows of preset {config.preset!r} have the hub's columns or instruction, input and output"
            problems.add(str(error), record.where, fix)
    return records


def _example(record: Record, source: str, config: DatasetConfig, problems: Problems) -> Example | None:
    fields = config.fields.model_dump()
    parts: dict[str, Any] = {}
    sound = True
    for part, column in fields.items():
        try:
            value = lookup(record.values, column)
            parts[part] = as_list(value) if part in _KINDS else as_text(value)
        except ValueError as error:
            sound = False
            problems.add(str(error), f"{record.where} field {column!r}", f"make it {_KINDS.get(part, 'a text')}")
    if not sound:
        return None
    preset = PRESETS.get(config.preset or "")
    parts["instruction"] = parts["instruction"] or config.instruction or (preset.instruction if preset else "")
    parts["choices"] = tuple(config.choices or parts["choices"] or (preset.choices if preset else ()))
    parts["aliases"] = tuple(dict.fromkeys(text for text in parts["aliases"] if text not in ("", parts["output"])))
    if config.first_line_only:
        parts["output"] = parts["output"].partition("\n")[0].strip()
    if (wrong := _wrong(parts, config)) is not None:
        problems.add(wrong[0], f"{record.where} field {wrong[1]!r}", wrong[2])
        return None
    example = Example(**parts, meta=_meta(record.values, source))
    return example if example.id else Example(**{**parts, "id": example.content_hash()}, meta=example.meta)


def _wrong(parts: Mapping[str, Any], config: DatasetConfig) -> tuple[str, str, str] | None:
    """What is wrong with a row, its column, and the mend."""
    fields = config.fields
    if not parts["output"]:
        return "the answer is missing or empty", fields.output, "write the answer, or remove the row"
    if not parts["instruction"] and not parts["input"]:
        return "instruction and input are both empty", fields.input, "fill one of them, or set dataset.instruction"
    if parts["choices"] and parts["output"] not in parts["choices"]:
        shown = parts["output"][:60]
        choices = ", ".join(parts["choices"])[:200]
        return f"the answer {shown!r} is none of the choices", fields.output, f"write it exactly as one of {choices}"
    return None


def _meta(values: Mapping[str, Any], source: str) -> dict[str, str]:
    mined = lookup(values, "meta.source") if source.startswith("mined:") else None
    licence = next((found for name in _LICENCES if isinstance(found := lookup(values, name), str) and found), None)
    return {"source": mined or source, **({"licence": licence} if licence else {})}


def _has(values: Mapping[str, Any], column: str) -> bool:
    return column in values or lookup(values, column) is not None


_KINDS = {"choices": "a list of texts", "aliases": "a list of texts"}
