"""Purifiers: b_impress_*, b_diffpure, b_gridpure."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
from diffusers import AutoencoderKL
from stillguard.engine.purify.diffusion import STEPS, Chain, dds_one_shot, diffpure, linear_alphas, timesteps_for
from stillguard.engine.purify.gridpure import boxes, corners, gridpure
from stillguard.engine.purify.impress import impress
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from torch import Tensor, nn

from .dormant_parts import NarrowVGG
from .folder import Folder, Row, number, relative


def checks(folder: Folder) -> Iterator[Row]:
    for name in folder.values()["B"]:
        if name.startswith("impress_") and folder.has(f"vectors/b_{name}", "vectors/a_inputs", "weights/vae", "weights/lpips"):
            yield from impressed(folder, name)
    if folder.has("vectors/b_diffpure"):
        yield from diffusion(folder)
    if folder.has("vectors/b_gridpure"):
        yield from grid(folder)


def impressed(folder: Folder, name: str) -> Iterator[Row]:
    """In double: where the narrow LPIPS network is all but dead, dividing by its norm makes fp32's rounding as large as what is left."""
    threshold, alpha = (float(part.lstrip("epsalh").replace("p", ".")) for part in name.split("_")[1:])
    official, losses = folder.vectors(f"b_{name}"), folder.values()["B"][name]
    image = folder.vectors("a_inputs")["x_u8"].double() / 255
    settings = {"iterations": len(losses["mse"]), "threshold": threshold, "alpha": alpha, "drawn": official["draw.noise"]}
    for step in impress(image, round_trip(folder), lpips(folder), **settings):
        index = step.done - 1
        yield number(f"{name} mean squared error {step.done}", step.inconsistency, losses["mse"][index], 1e-4)
        yield number(f"{name} LPIPS {step.done}", step.distance, losses["lpips"][index], 1e-4)
        if f"x{step.done}" in official:
            yield relative(f"{name} picture {step.done}", step.image * 2 - 1, official[f"x{step.done}"], 1e-4)


def round_trip(folder: Folder) -> nn.Module:
    network = AutoencoderKL(**folder.config("vae")).eval().requires_grad_(False).double()
    network.load_state_dict(folder.weights("vae"))
    return lambda image: (network.decode(network.encode(image * 2 - 1).latent_dist.mode()).sample + 1) / 2


def lpips(folder: Folder) -> PerceptualNetwork:
    state, heads = {name: value.double() for name, value in folder.weights("lpips").items()}, []
    for index in range(5):
        weight = state[f"lin{index}.model.1.weight"]
        heads.append(nn.Conv2d(weight.shape[1], 1, 1, bias=False))
        heads[-1].weight.data = weight
    return PerceptualNetwork(NarrowVGG(state), heads).double()


def stand_in(noisy: Tensor, timestep: Tensor) -> Tensor:
    """What the official chain was given instead of ADM."""
    noise = 0.7 * noisy.tanh() + 0.002 * timestep.view(-1, 1, 1, 1)
    return torch.cat([noise, 0.5 * (3 * noisy).cos()], dim=1)


def diffusion(folder: Folder) -> Iterator[Row]:
    official, values = folder.vectors("b_diffpure"), folder.values()["B"]["diffpure"]
    yield relative("cumulative alphas of 1000 linear steps", linear_alphas(), official["schedule1000.alphas_cumprod"], 1e-12)
    for name in (name for name in values if name.startswith("diffpure_t")):
        timesteps = int(name.removeprefix("diffpure_t"))
        draws, told = official[f"draw.{name}.draws"].float(), []

        def denoiser(noisy: Tensor, timestep: Tensor, told: list[float] = told) -> Tensor:
            told.append(float(timestep))
            return stand_in(noisy, timestep)

        image = official[f"{name}.x"]
        yield relative(f"{name} noised", Chain.whole().noised(image, timesteps - 1, draws[0]), official[f"{name}.first_noised"], 1e-5)
        steps = list(diffpure((image + 1) / 2, denoiser, timesteps=timesteps, noises=iter(draws)))
        yield relative(f"{name} after a step", steps[0].image * 2 - 1, official[f"{name}.after_1_step"], 1e-5)
        yield relative(f"{name} purified", steps[-1].image * 2 - 1, official[f"{name}.y"], 1e-5)
        expected = [*values[name]["timesteps_given_to_network"], values[name]["n_calls"]]
        yield relative(f"{name} timesteps", torch.tensor([*told[:2], told[-1], len(told)]), torch.tensor(expected), 0.0)
    t, image = values["dds_one_shot"]["t"], official["diffpure_t10.x"]
    noise = official["dds_one_shot.noise"]
    yield relative("DDS noised", Chain.whole().noised(image, t, noise), official["dds_one_shot.x_t"], 1e-5)
    estimate = dds_one_shot((image + 1) / 2, stand_in, timesteps=t + 1, noise=noise)
    yield relative("DDS in one call", estimate * 2 - 1, official["dds_one_shot.pred_xstart"], 1e-5)
    chosen = {int(k): timesteps_for(int(k) / 255) for k in values["ddspure_get_opt_t"]}
    off = sum(chosen[int(k)] != t for k, t in values["ddspure_get_opt_t"].items())
    yield Row("DDSPure's choice of steps", off, 0, f"of {len(chosen)} differ")
    yield from shortcut(official, values)


def shortcut(official: dict[str, Tensor], values: dict[str, dict[str, object]]) -> Iterator[Row]:
    """DiffShortcut's DDSPure with its faults: pictures in [0,1], a step of the whole chain taken in a respaced one, the last left out."""
    (respaced,) = (name for name in values if name.startswith("respaced_"))
    count, start = int(respaced.removeprefix("respaced_")), values["ddspure_diffshortcut"]["opt_t"]
    used = [round(i * (STEPS - 1) / (count - 1)) for i in range(count)]
    yield relative("respaced steps", torch.tensor(used), official[f"{respaced}.timestep_map"], 0.0)
    chain = Chain(linear_alphas()[used], used)
    yield number("respaced cumulative alpha", float(chain.alphas[start]), values[respaced][f"alphas_cumprod_at_{start}"], 1e-9)
    draws = official["draw.ddspure_diffshortcut.draws"].float()
    noisy = chain.noised(official["ddspure_diffshortcut.x_unit"], start, draws[0])
    for index in range(start, 0, -1):
        noisy, _ = chain.before(noisy, index, stand_in(noisy, torch.tensor([chain.labels[index]])), draws[start - index + 1])
    yield relative("DDSPure of DiffShortcut", noisy[0], official["ddspure_diffshortcut.y"], 1e-5)


def grid(folder: Folder) -> Iterator[Row]:
    official, values = folder.vectors("b_gridpure"), folder.values()["B"]["gridpure"]
    for kind, ours in (("boxes_x0_y0_x1_y1 (PIL order)", boxes), ("corner_boxes", corners)):
        for size, expected in values[kind].items():
            width, height = map(int, size.split("x"))
            differ = {*map(tuple, expected)} ^ {*ours(height, width)}
            yield Row(f"GrIDPure {kind.split('_')[0]} of {size}", len(differ), 0, "boxes differ")
    image = official["in_u8"].permute(2, 0, 1)[None].float() / 255
    for found in filter(None, (re.fullmatch(r"out_iters(\d+)_gamma(\d\.\d+)", name) for name in official)):
        settings = {"iterations": int(found[1]), "gamma": float(found[2]), "truncate": True}
        steps = gridpure(image, lambda w: 0.6 * w + 0.2 * w.flip(-1) + 0.2 * w.flip(-2), **settings)
        levels = (list(steps)[-1].image[0] * 255).permute(1, 2, 0)
        yield Row("GrIDPure", float((levels - official[found[0]]).abs().max()), 1e-3, "levels")
