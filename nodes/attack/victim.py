"""What is told of a way to animate or edit a picture in ComfyUI: see victim_table.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Driver = Literal["the picture alone", "a prompt", "a pose video", "a driving video", "a motion", "audio"]


@dataclass(frozen=True)
class Pack:
    """A third-party node pack. repository: owner/name on GitHub."""

    name: str
    repository: str


@dataclass(frozen=True)
class ModelFile:
    """A file that the victim loads.

    folder: below ComfyUI's models folder; one that ComfyUI knows by name may also lie elsewhere (extra_model_paths.yaml).
    pattern: as in a shell, of the file's published names; capitals do not matter. A user's file may be named otherwise.
    """

    folder: str
    pattern: str


@dataclass(frozen=True)
class Victim:
    """One way of animating or editing a picture.

    requires: ids of the nodes that make it this victim, beside core's loaders and samplers.
    pictures: inputs through which the picture enters, as (node id, input).
    driver: what moves the picture, the same in all branches.
    workflow: the file in workflows/ that attacks with it, without suffix; None: there is none yet.
    pack: None where ComfyUI or Stillguard itself brings the nodes.
    remark: what a user should know beforehand.
    """

    name: str
    requires: tuple[str, ...]
    pictures: tuple[tuple[str, str], ...]
    driver: Driver
    workflow: str | None
    models: tuple[ModelFile, ...] = ()
    pack: Pack | None = None
    remark: str = ""


WAN_PARTS = (
    ModelFile("vae", "*wan*vae*"),
    ModelFile("text_encoders", "*umt5*xxl*"),
    ModelFile("clip_vision", "*clip_vision_h*"),
)
"""Beside the model, in ComfyUI's nodes and in packs."""
