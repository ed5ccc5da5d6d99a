"""Bytes on the device that Silencer takes at full size, in both memories, counted from shapes: no GPU, no weights and no download.

    nox -s benchmarks -- silencer_memory [--size 512]

The preset node itself says what its stages optimise; a step of each is then gone through as the engine runs it, on torch's meta device, in
fp16 as on a GPU. With low memory the networks are copied in when it is their turn, and those copies count.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from bench import animator_files
from dormant_memory import GB, row, weights
from real_sizes import kl_vae, on_meta, vae_socket
from stillguard.engine import Observation, WorkingSize
from stillguard.engine.animators.talking_head.head import talking_head
from stillguard.engine.compute.memory import META, footprint, weightless
from stillguard.engine.draws import SeededDraws
from stillguard.engine.observation import Cut
from stillguard.engine.residency import one_at_a_time
from stillguard.nodes.bridge.memory.devices import patched
from stillguard.nodes.bridge.memory.room import checkpointing
from stillguard.nodes.bridge.protect.loss_spec import Losses, objective_of
from stillguard.nodes.bridge.protect.run import Settings
from stillguard.nodes.bridge.surrogates.run_surrogates import Surrogates
from stillguard.nodes.bridge.surrogates.speech import Speech
from stillguard.nodes.bridge.surrogates.talking_head import LoadedTalkingHead, frame_pass, portrait_pass
from stillguard.nodes.bridge.surrogates.vae import autoencoder_view, decoding_pass, vae_pass
from stillguard.nodes.losses.silencer import WINDOWS, audio_nullifying
from stillguard.nodes.protect import silencer
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

HALF = torch.float16
LAYERS, CHANNELS = 12, 768  # of wav2vec2-base
Stage = tuple[Losses, Settings]


class HostDraws(SeededDraws):
    """Random numbers with values, beside tensors that have none."""

    def integer(self, purpose: str, below: int) -> int:
        with _disable_current_modes():
            return super().integer(purpose, below)

    def normal(self, purpose: str, shape: tuple[int, ...]) -> Tensor:
        with _disable_current_modes():
            return super().normal(purpose, shape)


def loaded() -> LoadedTalkingHead:
    state = {key: torch.empty(shape, device=META) for key, shape in animator_files.talking_shapes(**animator_files.HALLO).items()}
    net, head = talking_head(state, "net.pth", dtype=HALF)
    return LoadedTalkingHead(net, patched(net), head, patched(head), "net.pth", loaded)


def stages(head: LoadedTalkingHead, vae: Any, pixels: int, *, profile: str, windows: str) -> Iterator[Stage]:
    """What the preset hands to its runs."""
    image, mask, found = torch.full((1, pixels, pixels, 3), 0.5), torch.ones(1, pixels, pixels), list[Stage]()

    def asked(picture: Tensor, losses: Losses, settings: Settings, **_: Any) -> tuple[Tensor, Tensor, float]:
        found.append((losses, settings))
        return picture, picture, 0.0

    speech = Speech(torch.zeros(9, LAYERS, CHANNELS), 9)
    changed = {"protect_images": asked, "heard": lambda *_: speech, "audio_nullifying": partial(audio_nullifying, windows=windows)}
    chosen = {"budget": 8.0, "steps": 1, "second_steps": 2, "seed": 1, "working_size": pixels, "memory": "fast"}
    sockets = {"talking_head": head, "vae": vae, "audio_encoder": None, "audio": None, "image": image, "face_mask": mask, "lips_mask": mask}
    with mock.patch.multiple(silencer, **changed):
        node = silencer.Silencer.PREPARE_CLASS_CLONE({"hidden_inputs": {}})
        node.execute(**sockets, **chosen, profile=profile, stages=silencer.BOTH)
    return iter(found)


def peak(stage: Stage, head: LoadedTalkingHead, vae: Any, pixels: int, *, low_memory: bool) -> float:
    """GB beside the weights that stay, during the first step, after which clean features are there too."""
    losses, settings = stage
    surrogates, working = Surrogates(), WorkingSize(pixels)
    objective, space = objective_of(losses, surrogates), settings.space.make(surrogates, 0)
    networks = (head.net, head.head, autoencoder_view(surrogates, vae).patcher.model)
    clean = torch.empty(1, 3, pixels, pixels, device=META)

    def step() -> tuple[Tensor, ...]:
        variables = [variable.detach().requires_grad_() for variable in space.variables(clean, None, clean)]

        def picture(cut: Cut) -> Tensor:
            return working(space.render(clean, None, variables, cut))

        seen = Observation(picture, surrogates=space.surrogates, draws=HostDraws(0), low_memory=low_memory)
        try:
            objective.backward(Observation(clean), seen)
        finally:
            seen.discard()
        return ()

    turning = [head.net.unet, head.head.denoiser]
    with weightless(networks), checkpointing(head.head, low_memory):
        turns = one_at_a_time(turning, META) if low_memory else contextlib.nullcontext()
        with turns:
            return footprint(step, lambda outputs: None).peak / GB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="pixels")
    pixels = parser.parse_args().size
    print(f"{torch.__version__}, {pixels} px, {HALF}")
    with on_meta():
        head, vae = loaded(), vae_socket(kl_vae, HALF)
        view = autoencoder_view(Surrogates(), vae)
        turning = sum(weights([head.net.unet, head.head.denoiser]))
        staying = sum(weights([head.net, head.head, view.patcher.model])) - turning
        row("weights of VAE and projections, which stay", staying)
        row("weights of ReferenceNet and denoiser", turning)
        passes = {"VAE's encoder": vae_pass(view), "VAE's decoder": decoding_pass(view)}
        passes |= {"ReferenceNet": portrait_pass(head.net, head.head.face_projection.tokens), "denoiser": frame_pass(head.head)}
        for name, one in passes.items():
            for memory, low in (("fast", False), ("low memory", True)):
                row(f"a pass of the {name} alone, {memory}", one.footprint(pixels, pixels, low_memory=low).peak / GB)
        for profile in ("recommended", "reference"):
            for windows in WINDOWS:
                for number, stage in enumerate(stages(head, vae, pixels, profile=profile, windows=windows), start=1):
                    fast, low = (peak(stage, head, vae, pixels, low_memory=low) for low in (False, True))
                    row(f"{profile}, windows {windows}, stage {number}, fast", staying + turning + fast)
                    row(f"{profile}, windows {windows}, stage {number}, low memory", staying + low)


if __name__ == "__main__":
    main()
