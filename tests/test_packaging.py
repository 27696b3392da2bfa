"""The declared packages are the folders there are, and no name hides another."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]


def _found_packages() -> set[str]:
    return {".".join((name, *init.parent.relative_to(ROOT / folder).parts))
            for name, folder in SETUPTOOLS["package-dir"].items()
            for init in (ROOT / folder).rglob("__init__.py")}


def test_every_package_is_listed():
    assert _found_packages() == set(SETUPTOOLS["packages"])
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


@pytest.mark.parametrize("folder", SETUPTOOLS["package-dir"].values())
def test_every_folder_with_modules_is_a_package(folder):
    # A folder without __init__.py would import from the checkout and be missing from the wheel.
    folders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert folders
    assert [f for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_frontend_does_not_hide_the_other_packages():
    mapped = {name.split(".")[1] for name in SETUPTOOLS["package-dir"] if "." in name}
    assert mapped == {"compiler", "runtime"}
    children = {path.stem for path in (ROOT / SETUPTOOLS["package-dir"]["tetractys"]).iterdir()}
    assert children.isdisjoint(mapped)


def test_data_files_exist():
    for package, patterns in SETUPTOOLS["package-data"].items():
        top = max((name for name in SETUPTOOLS["package-dir"]
                   if package == name or package.startswith(name + ".")), key=len)
        folder = ROOT / SETUPTOOLS["package-dir"][top] / Path(*package[len(top):].split(".")[1:])
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: no file matches {pattern}"


@pytest.mark.parametrize("package", ["frontend", "compiler", "runtime"])
def test_a_package_refuses_its_folder_name(package, monkeypatch):
    # From the root of the repository ``import compiler`` would make a second copy of each class.
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match="import tetractys"):
        __import__(package)


def test_sdist_manifest_has_what_the_tests_need():
    lines = (ROOT / "MANIFEST.in").read_text().split("\n")
    assert {"include conftest.py", "graft tests", "graft examples"} <= set(lines)
