"""The victim: Hallo's own pipeline with classifier-free guidance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from stillguard.engine.animators.talking_head.denoiser import Scale
from stillguard.engine.animators.talking_head.sampler import Portrait, clip_states
from torch import Tensor

from .folder import Folder, Row, relative
from .hallo_parts import OUTPUT, Parts


def scale(folder: Folder) -> Scale:
    """How much background, face and lips hear. No file of the first set says it but its README."""
    file = folder.path / "README.md"
    told = re.search(r"motion_scale \[([^]]*)\]", file.read_text(encoding="utf-8") if file.is_file() else "")
    usual = [float(share) for share in told.group(1).split(",")] if told else (1.0, 0.8, 1.2)
    background, face, lips = folder.config("run").get("motion_scale", usual)
    return background, face, lips


class Recording:
    """A talking head that remembers what it predicted."""

    def __init__(self, head: Any) -> None:
        self._head, self.seen, self.predicted = head, list[Tensor](), list[Tensor]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def denoise(self, noisy: Tensor, *told: Any, **named: Any) -> Tensor:
        self.seen.append(noisy)
        self.predicted.append(self._head.denoise(noisy, *told, **named))
        return self.predicted[-1]


def generation(folder: Folder, parts: Parts) -> Iterator[Row]:
    official, head = folder.vectors("j_victim_pipeline"), Recording(parts.head)
    latents = parts.vae.encode(torch.cat([parts.seen, parts.before])) * parts.run["latent_scale"]
    portrait = Portrait(latents[:1], parts.inputs["face_emb"][None], parts.region, parts.masks("mf_"))
    states = list(
        clip_states(
            parts.net,
            head,
            portrait,
            latents[1:],
            parts.audio("mf_"),
            official["latents_init"],
            steps=len(official["timesteps"]),
            guidance=parts.run["guidance_scale_victim"],
            scale=scale(folder),
            as_published=True,
        )
    )
    for index, timestep in enumerate(official["timesteps"].tolist()):
        seen, predicted = (torch.cat(rows[2 * index : 2 * index + 2]) for rows in (head.seen, head.predicted))
        yield relative(f"generation, seen at {timestep}", seen, official[f"unet_in.{index}"], OUTPUT)
        for row, name in enumerate(("unconditional", "conditional")):
            yield relative(f"generation, {name} at {timestep}", predicted[row], official[f"unet_out.{index}"][row], OUTPUT)
    yield relative("generation, result", states[-1].latents, official["latents_final"], OUTPUT)
