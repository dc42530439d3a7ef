"""The compiled pipeline and the conventions of its components."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from damoc_components.image import DEFAULT_IMAGE
from damoc_pipelines.compile import COMPILED
from damoc_pipelines.readme import asset_files, render_readme

from conftest import ROOT

COMPONENTS = sorted(ROOT.glob("components/*/*/component.py"))
CATEGORIES = {"training", "evaluation", "data_processing", "deployment"}
ASSETS = asset_files(ROOT)


def _compile(*args: str) -> str:
    command = [sys.executable, "-m", "damoc_pipelines.compile", *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _executors(path: Path) -> dict[str, Any]:
    document = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    return {name: value["container"] for name, value in document["deploymentSpec"]["executors"].items()}


def test_the_committed_specification_is_fresh(tmp_path: Path) -> None:
    _compile(str(tmp_path / "fresh.yaml"))
    assert (tmp_path / "fresh.yaml").read_text() == COMPILED.read_text(), "stale: run damoc compile"


def test_an_image_pinned_by_digest_reaches_every_component(tmp_path: Path) -> None:
    image = "team/damoc-python@sha256:" + "0" * 64
    _compile(str(tmp_path / "pinned.yaml"), "--image", image)
    assert {container["image"] for container in _executors(tmp_path / "pinned.yaml").values()} == {image}


def test_no_component_installs_anything_at_run_time() -> None:
    executors = _executors(COMPILED)
    assert len(executors) == 10
    for container in executors.values():
        assert container["image"] == DEFAULT_IMAGE
        assert "pip install" not in " ".join(container["command"])


def test_the_steps_are_never_cached_by_kfp() -> None:
    document = next(yaml.safe_load_all(COMPILED.read_text(encoding="utf-8")))
    groups = [document["root"], *document["components"].values()]
    tasks = [task for group in groups for task in group.get("dag", {}).get("tasks", {}).values()]
    leaves = [
        task
        for task in tasks
        if "exec" in document["components"][task["componentRef"]["name"]].get("executorLabel", "")
    ]
    assert len(leaves) == 10
    assert all("enableCache" not in task.get("cachingOptions", {}) for task in leaves)


@pytest.mark.parametrize("source", ASSETS, ids=lambda path: path.parent.name)
def test_an_asset_follows_the_conventions(source: Path) -> None:
    folder = source.parent
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert folder.parent.name in CATEGORIES
    assert list(metadata)[:5] == ["name", "stability", "dependencies", "tags", "lastVerified"]
    assert metadata["name"] == folder.name
    assert {item["name"] for item in metadata["dependencies"]["kubeflow"]} == {"Pipelines"}
    assert set(yaml.safe_load((folder / "OWNERS").read_text())) == {"approvers", "reviewers"}
    assert (folder / "README.md").read_text(encoding="utf-8") == render_readme(source), "stale: run make docs"
    assert list((folder / "tests").glob("test_*.py"))


@pytest.mark.parametrize("source", sorted([*ROOT.glob("components/**/*.py"), *ROOT.glob("pipelines/**/*.py")]))
def test_kfp_can_read_the_annotations(source: Path) -> None:
    if "tests" in source.parts:
        return
    tree = ast.parse(source.read_text(encoding="utf-8"))
    imports = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert "__future__" not in imports


@pytest.mark.parametrize("source", COMPONENTS, ids=lambda path: path.parent.name)
def test_a_component_is_one_import_and_one_call(source: Path) -> None:
    function = next(node for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef))
    documented, imported, called = function.body
    assert isinstance(documented, ast.Expr)
    assert isinstance(imported, ast.ImportFrom) and imported.module == f"damoc.stages.{function.name}"
    assert isinstance(called, ast.Return) and isinstance(called.value, ast.Call)


def test_nothing_under_damoc_imports_kfp() -> None:
    for source in (ROOT / "damoc").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [item.name for item in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.split(".")[0] == "kfp" for name in names), source


def test_every_package_is_listed_for_the_wheel() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib")
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for top, name in (("damoc", "damoc"), ("components", "damoc_components"), ("pipelines", "damoc_pipelines")):
        for init in (ROOT / top).rglob("__init__.py"):
            found.add(".".join([name, *init.relative_to(ROOT / top).parts[:-1]]))
    assert listed == found
