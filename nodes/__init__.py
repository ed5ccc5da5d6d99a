"""The ComfyUI face of the pack: nodes declare, check and delegate."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import attack, evaluate, losses, protect, surrogates
from .checked import checked

NODES: tuple[type[io.ComfyNode], ...] = (*surrogates.NODES, *losses.NODES, *protect.NODES, *attack.NODES, *evaluate.NODES)


class StillguardExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [checked(node) for node in NODES]
