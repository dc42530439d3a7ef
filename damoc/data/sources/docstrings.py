"""A domain dataset and corpora from the docstrings of installed scientific packages (BSD-3-Clause)."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from damoc.data.example import Example
from damoc.data.near_duplicates import near_duplicates
from damoc.data.sources.text import leading_sentences, rst_to_text

_MAX_ANSWER = 280
_MIN_ANSWER = 30
_SECTION = re.compile(r"\n[ \t]*(?:[A-Z][\w ]+\n[ \t]*-{3,}|Args?:|Arguments:|Returns:|Raises:|Examples?:|Note:)")


@dataclass(frozen=True)
class Documented:
    """A function or class with its docstring, read from source without importing it."""

    package: str
    module: str
    name: str
    signature: str
    docstring: str


def package_root(package: str) -> Path:
    """Folder of an installed package; ``"stdlib"`` is the standard library."""
    if package == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed, so its docstrings cannot be mined")
    return Path(spec.origin).parent


def documented(package: str) -> Iterator[Documented]:
    """Yields every public documented function and class of a package, in the order of its files and lines."""
    root = package_root(package)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if any(part in {"tests", "test", "testing", "site-packages", "idlelib", "lib2to3"} for part in parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        module = ".".join([package, *parts]).removesuffix(".py").removesuffix(".__init__")
        yield from _walk(tree, package, module, "")


def science_qa(packages: Sequence[str] = ("numpy", "scipy", "sklearn", "pandas")) -> list[Example]:
    """``science-qa``: what does a function compute; grouped by module, near-duplicates dropped."""
    found = []
    for package in packages:
        for item in documented(package):
            text = rst_to_text(_SECTION.split(item.docstring)[0])
            answer = leading_sentences(" ".join(text.split()), _MAX_ANSWER)
            if len(answer) >= _MIN_ANSWER:
                found.append((item, answer))
    repeats = near_duplicates([answer for _, answer in found], threshold=0.7)
    rows, seen = [], set()
    for index, (item, answer) in enumerate(found):
        identity = f"science-qa/{item.module}.{item.name}"
        if index in repeats or identity in seen:
            continue
        seen.add(identity)
        version = metadata.version("scikit-learn" if item.package == "sklearn" else item.package)
        rows.append(
            Example(
                id=identity,
                instruction="What does this function compute?",
                input=f"Package: {item.package}\nFunction: {item.module}.{item.name}{item.signature}",
                output=answer,
                group=item.module,
                meta={"source": f"{item.package} {version}: {item.module}.{item.name}", "licence": "BSD-3-Clause"},
            )
        )
    return rows


def docstring_corpus(packages: Sequence[str], skip_modules: frozenset[str] = frozenset()) -> list[str]:
    """Plain text of the docstrings of packages, one text a module; modules in ``skip_modules`` left out."""
    modules: dict[str, list[str]] = {}
    for package in packages:
        for item in documented(package):
            if item.module not in skip_modules:
                lines = modules.setdefault(item.module, [])
                lines.append(f"{item.name}{item.signature}\n{rst_to_text(item.docstring)}")
    return ["\n\n".join(dict.fromkeys(lines)) for lines in modules.values()]


def _walk(node: ast.AST, package: str, module: str, prefix: str) -> Iterator[Documented]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            name = f"{prefix}{child.name}"
            if docstring := ast.get_docstring(child):
                arguments = child.args if not isinstance(child, ast.ClassDef) else None
                signature = f"({', '.join(_names(arguments))})" if arguments else ""
                yield Documented(package, module, name, signature, docstring)
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, package, module, f"{name}.")
        elif isinstance(child, ast.Expr) and (added := _add_newdoc(child)) is not None:
            yield Documented(package, module, added[0], "", added[1])


def _names(arguments: ast.arguments) -> list[str]:
    return [arg.arg for arg in (*arguments.posonlyargs, *arguments.args) if arg.arg not in {"self", "cls"}][:8]


def _add_newdoc(node: ast.Expr) -> tuple[str, str] | None:
    """The name and text of numpy's ``add_newdoc('place', 'name', 'text')``, how it documents C functions."""
    call = node.value
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "add_newdoc"):
        return None
    values = [arg.value for arg in call.args[1:3] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return (values[0], values[1]) if len(values) == 2 else None
