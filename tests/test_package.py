"""How the repository behaves as an installed package and as a custom node."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Top-level names of absolute imports, and relative imports that leave the file's first folder, as '..name'."""
    depth = len(file.relative_to(ROOT).parts) - 1
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0] if node.level == 0 else ".." * (node.level > depth) + (node.module or ""))
    return found


def test_the_engine_imports_without_comfyui_in_a_process_of_its_own() -> None:
    forbidden = {"comfy", "comfy_api", "folder_paths", "nodes", "server"}
    code = f"import sys, stillguard.engine; sys.exit(bool({forbidden} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.home())


@pytest.mark.parametrize("file", modules("engine"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_engine_knows_neither_comfyui_nor_nodes(file: Path) -> None:
    assert not {
        name for name in imported(file) if name.split(".")[0] in {"comfy", "comfy_api", "folder_paths", "server"} or name == "..nodes"
    }


def test_only_the_bridge_knows_comfyuis_insides() -> None:
    outside = [file for file in modules("nodes") if "bridge" not in file.parts]
    allowed = {"comfy", "comfy_api", "folder_paths"}
    for file in outside:
        inner = imported(file) & {"comfy", "server", "execution", "latent_preview"}
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = {
            id(n)
            for block in ast.walk(tree)
            if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
            for n in ast.walk(block)
        }
        real = [n for n in ast.walk(tree) if isinstance(n, ast.Import) and id(n) not in guarded and n.names[0].name.startswith("comfy.")]
        assert not real or {n.names[0].name for n in real} <= {"comfy.model_management"}, file
        assert inner <= allowed, file


def test_every_subpackage_is_installed() -> None:
    found = {"stillguard"} | {
        ".".join(("stillguard", *file.parent.relative_to(ROOT).parts))
        for folder in ("engine", "nodes", "lab")
        for file in modules(folder)
        if file.name == "__init__.py"
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == found
    holding = {
        ".".join(("stillguard", *file.parent.relative_to(ROOT).parts)) for folder in ("engine", "nodes", "lab") for file in modules(folder)
    }
    assert holding <= found


def test_dependencies_have_floors_and_never_touch_what_comfyui_brings() -> None:
    for requirement in PYPROJECT["project"]["dependencies"]:
        assert ">=" in requirement
        assert "==" not in requirement
        assert "<" not in requirement
        assert not requirement.startswith(("torch", "torchvision", "torchaudio", "numpy"))


def test_registry_metadata_is_complete() -> None:
    project, comfy = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
    assert project["name"] == "stillguard"
    assert project["license"] == {"file": "LICENSE"}
    assert len(project["version"].split(".")) == 3
    assert project["urls"]["Repository"].startswith("https://")
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui", "includes"} <= comfy.keys()
    assert "web" not in comfy  # together with WEB_DIRECTORY the page would load every script twice
