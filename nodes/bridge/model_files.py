"""Finding the files of the catalogue through ComfyUI's folder_paths."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import folder_paths

from ...engine.surrogates.tiny_autoencoder import SHIPPED
from ...engine.weights.catalogue import LAB, Entry


def register_model_folders() -> None:
    """models/stillguard for our files and the shipped networks; the folder of the shipped autoencoder joins the `vae` folders."""
    ours = Path(folder_paths.models_dir) / "stillguard"
    with contextlib.suppress(OSError):  # a read-only models folder may still hold everything elsewhere
        ours.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("stillguard", str(ours))
    folder_paths.add_model_folder_path("stillguard", str(LAB))
    # MagicPose is published as .th.
    folder_paths.folder_names_and_paths["stillguard"][1].update(folder_paths.supported_pt_extensions | {".th"})
    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))


def choices(entries: Sequence[Entry], *, others: Sequence[str] = ()) -> list[str]:
    """Names for a combo: the catalogue's own first, present or not, then every other file of the folder.

    others: further folders, whose files follow as `folder/name`.
    """
    names = [entry.file for entry in entries]
    found = folder_paths.get_filename_list(entries[0].folder)
    elsewhere = [f"{folder}/{name}" for folder in others for name in folder_paths.get_filename_list(folder)]
    return [*names, *(name for name in found if name not in names), *elsewhere]


def chosen_file(entries: Sequence[Entry], name: str, *, others: Sequence[str] = ()) -> Path:
    """Full path of what `choices` offered. Raises FileNotFoundError saying what is missing and where to get it."""
    name = name.replace("\\", "/")  # as Windows lists files in subfolders
    folder, _, inner = name.partition("/")
    if folder in others and (path := folder_paths.get_full_path(folder, inner)) is not None:
        return Path(path)
    entry = next((entry for entry in entries if name in entry.names), entries[0])
    return find_file(entry, name)


def fingerprint(files: Iterable[tuple[Entry, str | None]]) -> str:
    """What changes when one of these files comes, goes or is replaced: for nodes that go on without a file, so that what they said without
    it is not remembered. It is saved with prompts, so it names no place. A name that comes out of another node is not known: None."""
    facts = []
    for entry, name in files:
        with contextlib.suppress(FileNotFoundError):
            there = find_file(entry, name or entry.file).stat()
            facts.append(f"{entry.file} {name} {there.st_size} {there.st_mtime_ns}")
    return sha256("\n".join(facts).encode()).hexdigest()[:16]


def find_file(entry: Entry, name: str) -> Path:
    """Full path of a chosen file; the catalogue's own name also stands for upstream's names of it.

    Raises FileNotFoundError saying what is missing and where to get it.
    """
    for candidate in entry.names if name == entry.file else (name,):
        path = folder_paths.get_full_path(entry.folder, candidate)
        if path is not None:
            return Path(path)
    raise FileNotFoundError(entry.missing())
