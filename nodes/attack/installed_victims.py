"""Installed Victims."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from comfy_api.latest import io, ui

from ..bridge.attack.victims import has_file, missing_nodes
from ..bridge.progress import show_text
from .victim import ModelFile, Victim
from .victim_table import VICTIMS

State = Literal["ready", "files not found", "nodes missing"]
HEADINGS: dict[State, str] = {
    "ready": "Can run now",
    "files not found": "Nodes are there; no file was found under the name that it is published by (yours may be named otherwise)",
    "nodes missing": "Cannot run: nodes are missing",
}


class InstalledVictims(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="StillguardInstalledVictims",
            display_name="Installed Victims",
            category="stillguard/attack test",
            description="Which animation models this ComfyUI can attack a picture with now, which workflow does it, and what others lack.",
            search_aliases=["attack", "victim", "target", "missing", "packs", "models"],
            is_output_node=True,
            inputs=[],
            outputs=[io.String.Output("victims", display_name="victims")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        # A hash of the answer: files and packs come and go without the workflow changing. Core writes it into the files that it saves, so
        # that it may be no NaN, which would break their JSON, and may not name what is installed here.
        return hashlib.sha256(listing([examined(victim) for victim in VICTIMS]).encode()).hexdigest()

    @classmethod
    def execute(cls) -> io.NodeOutput:
        text = listing([examined(victim) for victim in VICTIMS])
        show_text(text, node_id=cls.hidden.unique_id)
        return io.NodeOutput(text, ui=ui.PreviewText(text))


@dataclass(frozen=True)
class Found:
    """A victim, and what it lacks here."""

    victim: Victim
    nodes: tuple[str, ...]
    files: tuple[ModelFile, ...]

    @property
    def state(self) -> State:
        return "nodes missing" if self.nodes else "files not found" if self.files else "ready"


def examined(victim: Victim) -> Found:
    nodes = tuple(missing_nodes(victim.requires))
    return Found(victim, nodes, tuple(file for file in victim.models if not has_file(file.folder, file.pattern)))


def listing(found: Sequence[Found]) -> str:
    """A section for each state that any victim is in, a line for each victim."""
    sections = []
    for state, heading in HEADINGS.items():
        lines = [_line(one) for one in found if one.state == state]
        if lines:
            sections.append("\n".join([f"{heading} ({len(lines)} of {len(found)}):", *lines]))
    return "\n\n".join(sections)


def _line(found: Found) -> str:
    victim = found.victim
    workflow = f"workflow {victim.workflow}" if victim.workflow else "no workflow yet"
    facts = "; ".join([f"- {victim.name}: {workflow}, driven by {victim.driver}", *_missing(found)])
    return f"{facts}. {victim.remark}".strip()


def _missing(found: Found) -> list[str]:
    """What to do about it."""
    parts = []
    if found.nodes:
        names, pack = ", ".join(found.nodes), found.victim.pack
        if pack is None:
            parts.append(f"update ComfyUI, which lacks {names}")
        elif len(found.nodes) == len(found.victim.requires):
            parts.append(f"install {pack.name} (github.com/{pack.repository})")
        else:
            parts.append(f"update {pack.name} (github.com/{pack.repository}), which lacks {names}")
    if found.files:
        # The page reads it as Markdown: bare asterisks would vanish.
        parts.append("not found: " + ", ".join(f"`models/{file.folder}/{file.pattern}`" for file in found.files))
    return parts


NODES: tuple[type[io.ComfyNode], ...] = (InstalledVictims,)
