"""What this ComfyUI has of what a victim takes: nodes that are registered, files that lie in the model folders."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

import folder_paths

import nodes


def missing_nodes(ids: Iterable[str]) -> list[str]:
    """Those of the node ids that no installed pack has registered. Nothing is loaded or run."""
    return [name for name in ids if name not in nodes.NODE_CLASS_MAPPINGS]


def has_file(folder: str, pattern: str) -> bool:
    """Whether a file matches; see attack.victim.ModelFile. Only a folder that ComfyUI knows by name is searched with its subfolders."""
    if folder in folder_paths.folder_names_and_paths:
        names = [Path(name).name for name in folder_paths.get_filename_list(folder)]
    else:
        names = [path.name for path in (Path(folder_paths.models_dir) / folder).glob("*")]
    return any(fnmatch(name.lower(), pattern.lower()) for name in names)
