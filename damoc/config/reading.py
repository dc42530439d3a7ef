"""Reads a config, with all of its problems at once, each with its file, its field and its mend."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from damoc.config.dataset import SPLITS
from damoc.config.selection import SelectionConfig
from damoc.errors import DamocError, Problem


def load_config(path: Path) -> SelectionConfig:
    """Reads and validates a YAML config; paths in it become absolute, relative to the file's folder.

    Args:
        path: YAML file.

    Raises:
        DamocError: every problem found, each with its place and mend.
    """
    return parse_config(read_yaml(path), str(path), path.resolve().parent)


def read_yaml(path: Path) -> Any:
    """Parses a YAML file, with errors that name line and column."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DamocError("the config file does not exist", str(path), "check the path") from None
    except UnicodeDecodeError as error:
        raise DamocError(f"not UTF-8 (byte {error.start})", str(path), "save the file as UTF-8") from None
    except OSError as error:
        raise DamocError(
            f"the config cannot be read: {error.strerror}", str(path), "name a readable YAML file"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise DamocError(f"not valid YAML: {getattr(error, 'problem', error)}", place, "mend the syntax") from None


def parse_config(raw: Any, where: str, root: Path) -> SelectionConfig:
    """Validates a parsed config.

    Args:
        raw: what the YAML holds.
        where: name of the file, for messages.
        root: folder that relative paths start from.

    Raises:
        DamocError: every problem found.
    """
    if not isinstance(raw, dict):
        raise DamocError("a config is a mapping of sections", where, "start from one of the files in examples/")
    try:
        config = SelectionConfig.model_validate(raw)
    except ValidationError as error:
        raise DamocError.from_problems([_problem(detail, where) for detail in error.errors()]) from None
    return resolve_paths(config, root)


def resolve_paths(config: SelectionConfig, root: Path) -> SelectionConfig:
    """The same config with local paths made absolute."""
    data = config.model_dump()
    data["workspace"] = _absolute(config.workspace, root, must_exist=False)
    dataset = data["dataset"]
    if dataset["source"]:
        dataset["source"] = _absolute(dataset["source"], root, must_exist=False)
    for split in ("train", "valid", "test"):
        if isinstance(dataset["splits"].get(split), str):
            dataset["splits"][split] = _absolute(dataset["splits"][split], root, must_exist=False)
    compression = data["data_compression"]
    signals, condense = compression["signals"], compression["condense"]
    asked = (signals["scorer"], signals["judge"], condense["repair"]["rewriter"])
    local = [(model, "model") for model in asked if model and not model.get("endpoint")]
    encoders = [(condense["gate"], "encoder"), (data["evaluation"]["bertscore"], "encoder")]
    named = [(signals, "encoder"), (signals, "reward"), (condense, "compressor"), *encoders, *local]
    for section, key in named:
        section[key] = _absolute(section[key], root)
    evaluation = data["evaluation"]
    harness, _, task_file = (evaluation["task"] or "").partition(":")
    if task_file.endswith(".yaml"):
        evaluation["task"] = f"{harness}:{_absolute(task_file, root, must_exist=False)}"
    for candidate in data["candidates"]:
        candidate["model"] = _absolute(candidate["model"], root)
        candidate["base"] = _absolute(candidate["base"], root) if candidate["base"] else None
    return SelectionConfig.model_validate(data)


def _absolute(value: str, root: Path, must_exist: bool = True) -> str:
    """Absolute path of a local path; hub ids (nothing there, ``owner/name``) and URIs stay as they are."""
    if re.match(r"^(s3|hf|mined|packaged|https?):", value):
        return value
    path = (root / Path(value).expanduser()).resolve()
    return str(path) if path.exists() or not must_exist or value.startswith((".", "/", "~")) else value


def _problem(detail: Any, where: str) -> Problem:
    path = [str(part) for part in detail["loc"]]
    location = [part for part in path if part not in SPLITS]
    field = ".".join(location) or "config"
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"remove it; known keys here: {', '.join(known)}"
        return Problem(f"unknown key {location[-1]!r}", f"{where} field {field}", fix)
    if detail["type"] == "missing":
        return Problem("this key is required", f"{where} field {field}", f"add '{location[-1]}:'")
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float, bool)) else ""
    return Problem(
        f"{message[0].lower()}{message[1:]}{shown}",
        f"{where} field {field}",
        "correct the value; see damoc validate --schema",
    )


def _keys_at(location: list[str]) -> list[str]:
    model: Any = SelectionConfig
    for part in location:
        if part.isdigit() or part in SPLITS:
            model = SPLITS.get(part, model)
            continue
        annotation = model.model_fields[part].annotation
        nested = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        model = nested[0] if nested else model
    return sorted(model.model_fields)
