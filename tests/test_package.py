"""How the repository behaves as an installed package and as a custom node."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(file: Path, *, typing: bool = False) -> set[str]:
    """Full names of what a file imports, relative ones resolved to `stillguard...`. typing: also below `if TYPE_CHECKING`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unseen = {id(inner) for block in blocks for inner in ast.walk(block)}
    package = ["stillguard", *file.parent.relative_to(ROOT).parts]
    found = set()
    for node in ast.walk(tree):
        if id(node) in unseen and not typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


def test_the_engine_imports_without_comfyui_in_a_process_of_its_own() -> None:
    forbidden = {"comfy", "comfy_api", "folder_paths", "nodes", "server"}
    code = f"import sys, stillguard.engine; sys.exit(bool({forbidden} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.home())


def test_no_module_of_the_engine_imports_a_package_that_only_some_networks_need() -> None:
    code = (
        "import importlib, pkgutil, sys, stillguard.engine as e\n"
        "names = [m.name for m in pkgutil.walk_packages(e.__path__, 'stillguard.engine.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names), {'diffusers', 'kornia', 'lpips', 'open_clip', 'transformers', 'torchvision'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, cwd=Path.home(), capture_output=True, text=True).stdout
    count, _, found = told.strip().partition(" ")
    assert int(count) > 50
    assert found == "set()"


INSIDES = ("comfy", "server", "execution", "latent_preview")


@pytest.mark.parametrize("file", modules("engine"), ids=lambda file: str(file.relative_to(ROOT)))
def test_the_engine_knows_neither_comfyui_nor_nodes(file: Path) -> None:
    assert not within(imported(file), *INSIDES, "comfy_api", "folder_paths", "nodes", "stillguard.nodes")


@pytest.mark.parametrize("file", modules("nodes"), ids=lambda file: str(file.relative_to(ROOT)))
def test_only_the_bridge_knows_comfyuis_insides(file: Path) -> None:
    assert "bridge" in file.parts or not within(imported(file), *INSIDES)


ROOMS = ("surrogates", "losses", "protect", "attack", "evaluate")


def imports() -> dict[str, set[str]]:
    """Of every module of the package the modules of the package that it imports, for type checkers too."""
    files = {".".join(("stillguard", *file.relative_to(ROOT).with_suffix("").parts)): file for folder in OURS for file in modules(folder)}
    known = {name.removesuffix(".__init__"): file for name, file in files.items()}

    def found(file: Path) -> set[str]:
        names = imported(file, typing=True)
        return {name if name in known else name.rpartition(".")[0] for name in names} & known.keys()

    return {name: found(file) - {name} for name, file in known.items()}


OURS = ("engine", "nodes", "lab")


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = imports()
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}
    assert not left, f"a circle among {sorted(left)}"


def test_rooms_use_the_bridge_and_the_bridge_no_room() -> None:
    """And no room another, but Protect the losses: the whole methods are made of these."""
    graph = imports()
    assert any(".bridge." in name for name in graph)
    for name, needs in graph.items():
        home = name.split(".")[2:3]
        if name.startswith("stillguard.nodes.bridge"):
            assert not {need for need in needs if need.startswith("stillguard.nodes") and ".bridge" not in need}, name
        elif home and home[0] in ROOMS and name.startswith("stillguard.nodes"):
            allowed = {home[0], *(("losses",) if home[0] == "protect" else ())}
            strange = {need for need in needs if need.startswith("stillguard.nodes.") and need.split(".")[2] in {*ROOMS} - allowed}
            assert not strange, name


def test_the_check_of_imports_sees_every_form(tmp_path: Path) -> None:
    """Guards the two tests above."""
    file = ROOT / "engine" / "losses" / "dormant.py"
    assert within(imported(file), "stillguard.engine.observation")
    assert within(imported(ROOT / "nodes" / "bridge" / "autograd.py"), "comfy")
    assert within(imported(ROOT / "nodes" / "bridge" / "protect" / "run.py"), "stillguard.engine.attack")


def test_requirements_txt_says_the_same_as_pyproject() -> None:
    """ComfyUI Manager reads the one, pip the other."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == PYPROJECT["project"]["dependencies"]


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


# pip's name -> the name in Python, where they differ.
MODULES = {"open_clip_torch": "open_clip"}


def test_every_dependency_is_used_by_the_product_and_every_import_is_declared() -> None:
    """Those that ComfyUI brings itself need no declaration, and no other package is imported."""
    declared = {re.split(r"[<>=]", requirement)[0] for requirement in PYPROJECT["project"]["dependencies"]}
    product = {name.split(".")[0] for folder in ("engine", "nodes", "lab") for file in modules(folder) for name in imported(file)}
    for requirement in declared:
        assert MODULES.get(requirement, requirement) in product
    brought = {"torch", "torchaudio", "numpy", "PIL", "safetensors", "scipy", "av", "psutil"}
    of_comfyui = {
        "comfy",
        "comfy_api",
        "comfy_execution",
        "comfy_extras",
        "comfyui_version",
        "folder_paths",
        "latent_preview",
        "node_helpers",
        "nodes",
        "server",
    }
    known = {MODULES.get(name, name) for name in declared} | brought | of_comfyui | {"stillguard"} | sys.stdlib_module_names
    assert product <= known


def test_registry_metadata_is_complete() -> None:
    project, comfy = PYPROJECT["project"], PYPROJECT["tool"]["comfy"]
    assert project["name"] == "stillguard"
    assert project["license"] == {"file": "LICENSE"}
    assert len(project["version"].split(".")) == 3
    assert project["urls"]["Repository"].startswith("https://")
    assert {"PublisherId", "DisplayName", "Icon", "requires-comfyui", "includes"} <= comfy.keys()
    assert all(comfy[key] for key in ("PublisherId", "DisplayName", "requires-comfyui"))
    assert (ROOT / comfy["Icon"].partition("/main/")[2]).is_file()
    assert "web" not in comfy  # together with WEB_DIRECTORY the page would load every script twice


def test_an_older_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI runs on 3.10 as well, whose parser has to reach the sentence."""
    file = ROOT / "__init__.py"
    ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 10))
    spec = importlib.util.spec_from_file_location("stillguard_of_an_older_python", file)
    assert spec is not None
    monkeypatch.setattr(sys, "version_info", (3, 10, 14, "final", 0))
    monkeypatch.setattr(sys, "version", "3.10.14 (main)")
    with pytest.raises(ImportError, match=r"Stillguard needs Python 3\.11 or newer, and this is 3\.10\.14: run ComfyUI with a newer"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert PYPROJECT["project"]["requires-python"] == ">=3.11"
