"""Writes the README of every component and pipeline from its docstring and metadata.yaml.

``python -m damoc_pipelines.readme`` from the root of a checkout; with ``--check`` it only says which are stale.
"""

import argparse
import ast
import inspect
import sys
from pathlib import Path
from typing import Any, Dict, List

import yaml
from docstring_parser import Docstring, parse


def asset_files(root: Path) -> List[Path]:
    """Every ``component.py`` and ``pipeline.py`` below ``components/`` and ``pipelines/``."""
    return sorted([*root.glob("components/*/*/component.py"), *root.glob("pipelines/*/*/pipeline.py")])


def render_readme(source: Path) -> str:
    """The README of one asset.

    Args:
        source: its ``component.py`` or ``pipeline.py``.
    """
    metadata = yaml.safe_load((source.parent / "metadata.yaml").read_text(encoding="utf-8"))
    function = _function(source, metadata["name"])
    documentation = parse(inspect.cleandoc(ast.get_docstring(function) or ""))
    title = metadata["name"].replace("_", " ").capitalize()
    lines = [f"# {title}", "", f"> Stability: **{metadata['stability']}**", "", "## Overview", ""]
    lines.append(documentation.short_description or "")
    if documentation.long_description:
        lines += ["", documentation.long_description]
    lines += ["", "## Inputs", "", "| Parameter | Type | Description |", "|---|---|---|"]
    lines += [_row(argument, documentation) for argument in function.args.args if not _is_output(argument)]
    outputs = [_row(argument, documentation) for argument in function.args.args if _is_output(argument)]
    if function.returns is not None and documentation.returns is not None:
        kind = ast.unparse(function.returns)
        outputs.append(f"| `Output` | `{kind}` | {_flat(documentation.returns.description)} |")
    if outputs:
        lines += ["", "## Outputs", "", "| Output | Type | Description |", "|---|---|---|", *outputs]
    lines += ["", "## Metadata", "", *_metadata_lines(metadata), ""]
    return "\n".join(lines)


def _function(source: Path, name: str) -> ast.FunctionDef:
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)


def _row(argument: ast.arg, documentation: Docstring) -> str:
    kind = ast.unparse(argument.annotation).removeprefix("dsl.") if argument.annotation else ""
    kind = kind.replace("Output[dsl.", "").removesuffix("]") if _is_output(argument) else kind
    text = next((item.description for item in documentation.params if item.arg_name == argument.arg), "")
    return f"| `{argument.arg}` | `{kind}` | {_flat(text)} |"


def _flat(text: Any) -> str:
    return " ".join((text or "").split()).replace("``", "`")


def _is_output(argument: ast.arg) -> bool:
    return argument.annotation is not None and ast.unparse(argument.annotation).startswith("dsl.Output")


def _metadata_lines(metadata: Dict[str, Any]) -> List[str]:
    needs = [*metadata["dependencies"]["kubeflow"], *metadata["dependencies"].get("external_services", [])]
    lines = [f"- needs: {', '.join(item['name'] + ' ' + item['version'] for item in needs)}"]
    lines.append(f"- tags: {', '.join(metadata['tags'])}")
    lines.append(f"- last verified: {metadata['lastVerified']:%Y-%m-%d}")
    return lines


def main() -> int:
    """Writes or checks all READMEs; returns 1 when a checked one is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for source in asset_files(Path.cwd()):
        target, text = source.with_name("README.md"), render_readme(source)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target)
            if not arguments.check:
                target.write_text(text, encoding="utf-8")
    for target in stale:
        print(f"{'stale' if arguments.check else 'written'}: {target}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
