"""LPIPS's network, read from its file."""

from __future__ import annotations

from pathlib import Path

from ....engine.observation import Features, Observation
from ....engine.surrogates.perceptual import PerceptualNetwork, load_perceptual_network
from ..memory.devices import patched
from ..memory.precision import working_dtype
from ..memory.room import Pass
from .resident import Resident
from .run_surrogates import Surrogates


def perceptual_view(surrogates: Surrogates, backbone: Path, *, measuring: bool = False) -> PerceptualNetwork:
    """measuring: for figures that are compared with others', in fp32 everywhere."""

    def make(in_fp32: bool) -> Resident[PerceptualNetwork]:
        view = load_perceptual_network(backbone, dtype=working_dtype("fp32" if in_fp32 or measuring else "auto"))
        return Resident("LPIPS's network", view, patched(view), {"activations": perceptual_pass(view)})

    return surrogates.get(backbone, make).view


def perceptual_pass(network: PerceptualNetwork) -> Pass:
    def ask(seen: Observation) -> Features:
        return seen.features(network, "untransformed", lambda: network.activations(seen.untransformed))

    return Pass("LPIPS", (network,), ask)
