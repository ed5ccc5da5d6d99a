"""Bytes on the device that the whole objective of Dormant takes in low-memory mode, counted at full size without a GPU.

    nox -s benchmarks -- dormant_memory --full                 full-size random networks at 512 px; 16 GB of memory, half an hour
    nox -s benchmarks -- dormant_memory                        the same count on small networks

The CPU plays the device: UNets keep their weights elsewhere and copy them in when it is their turn, as in the Dormant node, and
every allocation counts. VAE, image encoder and LPIPS stay resident, and clean features of all ten timesteps are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from bench import cpu_shim, memory
from torch import nn

cpu_shim.install()

from dormant_step import FULL, NETS, SMALL, TIMESTEPS, Ours, Scene  # noqa: E402
from stillguard.engine import Observation  # noqa: E402
from stillguard.engine.draws import SeededDraws  # noqa: E402
from stillguard.engine.losses import dormant  # noqa: E402
from stillguard.engine.residency import one_at_a_time  # noqa: E402

GB = 1e9


def weights(networks: Iterable[nn.Module]) -> list[float]:
    return [sum(tensor.nbytes for tensor in network.state_dict().values()) / GB for network in networks]


def row(what: str, size: float) -> None:
    print(f"{what:44} {size:7.2f}", flush=True)


def step(ours: Ours, *, low_memory: bool) -> torch.Tensor:
    """The gradient of one step; clean features of every timestep are there afterwards."""
    for term in ours.objective.terms:
        if isinstance(term.loss, dormant.ReferenceFeature):
            for timestep in term.loss.timesteps:
                term.loss.setup.features(ours.clean, timestep)
    leaf = (ours.scene.clean + ours.scene.start).requires_grad_()
    ours.objective.backward(ours.clean, Observation(leaf, draws=SeededDraws(0), low_memory=low_memory))
    return leaf.grad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--size", type=int, help="pixels; 512 with --full, otherwise 128")
    parser.add_argument("--fast", action="store_true", help="also count fast mode, all networks resident")
    given = parser.parse_args()
    pixels = given.size or (512 if given.full else 128)
    scene = Scene(FULL if given.full else SMALL, pixels, "cpu", torch.bfloat16 if given.full else torch.float32)
    unets = [*(scene.nets[name].unet for name in NETS), scene.animator.unet]
    small = weights([scene.vae.vae.network, scene.clip.network, scene.lpips, scene.animator.guider])
    moving = weights(unets)
    print(f"{torch.__version__}, {pixels} px, {unets[0].dtype}, {len(TIMESTEPS)} timesteps")
    print(f"{'':44} {'GB':>7}")
    row("VAE, image encoder, LPIPS, pose guider", sum(small))
    row("four UNets together", sum(moving))
    scene.animator.checkpointing = True
    with memory.peak_bytes() as peaked, one_at_a_time(unets, torch.device("cpu")):
        low = step(Ours(scene), low_memory=True)
    row("low memory: UNets at work and activations", peaked() / GB)
    row("low memory: in all", peaked() / GB + sum(small))
    if given.fast:
        scene.animator.checkpointing = False
        with memory.peak_bytes() as peaked:
            fast = step(Ours(scene), low_memory=False)
        row("fast: activations", peaked() / GB)
        row("fast: in all", peaked() / GB + sum(small) + sum(moving))
        print(f"gradients of the two differ by {float((fast - low).norm() / low.norm()):.1e} of their norm")


if __name__ == "__main__":
    main()
