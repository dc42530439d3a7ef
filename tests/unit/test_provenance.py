"""Which code ran, and where."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from damoc.tracking import provenance


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout whose folder ``package`` takes damoc's place."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    monkeypatch.delenv("DAMOC_GIT_COMMIT", raising=False)
    _git(tmp_path, "init", "--quiet")
    return tmp_path


def _git(folder: Path, *args: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_clean_and_a_changed_checkout(checkout: Path) -> None:
    _git(checkout, "add", ".")
    _git(checkout, "commit", "--quiet", "-m", "first")
    head = _git(checkout, "rev-parse", "HEAD")
    (checkout / "notes.txt").write_text("outside of the package")
    assert provenance.code_commit() == head
    (checkout / "package" / "new.py").write_text("")
    assert provenance.code_commit() == f"{head}+dirty"


def test_a_package_in_a_foreign_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "own.txt").write_text("")
    _git(checkout, "add", "own.txt")
    _git(checkout, "commit", "--quiet", "-m", "somebody else's")
    assert provenance.code_commit() == "unknown"
    monkeypatch.setenv("DAMOC_GIT_COMMIT", "f" * 40)
    assert provenance.code_commit() == "f" * 40


def test_a_machine_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("DAMOC_GIT_COMMIT", raising=False)
    assert provenance.code_commit() == "unknown"


def test_this_checkout() -> None:
    assert re.fullmatch(r"[0-9a-f]{40}(\+dirty)?|unknown", provenance.code_commit())


def test_the_environment_names_what_is_installed() -> None:
    found = provenance.environment()
    assert found["python"] == platform.python_version()
    assert int(found["cpus"]) >= 1
    assert found["torch"] == version("torch")
    assert found["mlflow"] == version("mlflow")
    assert all(isinstance(value, str) and value for value in found.values())
