"""Finding the files of the catalogue through ComfyUI's folder_paths."""

from __future__ import annotations

import contextlib
from pathlib import Path

import folder_paths

from ..engine.surrogates.tiny_autoencoder import SHIPPED
from ..engine.weights.catalogue import Entry


def register_model_folders() -> None:
    """models/stillguard for our files; the folder of the shipped autoencoder joins the `vae` folders."""
    ours = Path(folder_paths.models_dir) / "stillguard"
    with contextlib.suppress(OSError):  # a read-only models folder may still hold everything elsewhere
        ours.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("stillguard", str(ours))
    folder_paths.folder_names_and_paths["stillguard"][1].update(folder_paths.supported_pt_extensions)
    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))


def file_choices(entry: Entry) -> list[str]:
    """Names for a combo: the catalogue's own name first, present or not, then every other file of the folder."""
    found = folder_paths.get_filename_list(entry.folder)
    return [entry.file, *(name for name in found if name != entry.file)]


def find_file(entry: Entry, name: str) -> Path:
    """Full path of a chosen file; the catalogue's own name also stands for upstream's names of it.

    Raises FileNotFoundError saying what is missing and where to get it.
    """
    for candidate in entry.names if name == entry.file else (name,):
        path = folder_paths.get_full_path(entry.folder, candidate)
        if path is not None:
            return Path(path)
    raise FileNotFoundError(entry.missing())
