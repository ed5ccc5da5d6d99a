"""Every network of a Hallo set, as a whole and block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from stillguard.engine.animators.pose_animator import noise_schedule
from torch import Tensor, nn

from .folder import Folder, Row, relative
from .hallo_parts import MODES, OUTPUT, REGIONS, Parts


def schedules(folder: Folder) -> Iterator[Row]:
    official = folder.vectors("s_schedule")
    for kind in ("train", "val"):
        signal = noise_schedule(folder.config(f"scheduler_{kind}")["beta_schedule"]).alphas_cumprod
        yield relative(f"cumulative alphas, {kind}", signal, official[f"alphas_cumprod_{kind}"], OUTPUT)
    signal = noise_schedule(folder.config("scheduler_train")["beta_schedule"]).alphas_cumprod
    yield relative("(SNR + 1) inverted, train", 1 - signal, 1 / official["snr_plus_1_train"], OUTPUT)


def inputs(folder: Folder, parts: Parts) -> Iterator[Row]:
    """What the denoiser is told."""
    head, given = parts.head, parts.inputs
    located, projected, reference = (folder.vectors(name) for name in ("a_face_locator", "b_proj", "c_reference"))
    yield relative("face located", head.locate(parts.region), located["mask_feature"][:, :, 0], OUTPUT)
    several = head.locate(parts.face_several).transpose(0, 1)
    yield relative("face located in several frames", several, located["mf_mask_feature"][0], OUTPUT)
    yield relative("face tokens", parts.tokens, projected["face_tokens"], OUTPUT)
    without = head.face_tokens(torch.zeros_like(given["face_emb"][None]))
    yield relative("face tokens without a face", without, projected["face_tokens_zero"], OUTPUT)
    yield relative("audio windows", head.windows(given["audio_raw"]), projected["audio_windows"], 0.0)
    yield relative("audio tokens", parts.audio(), projected["audio_tokens"], OUTPUT)
    yield relative("audio tokens of several frames", parts.audio("mf_"), projected["mf_audio_tokens"], OUTPUT)
    grey = torch.full_like(parts.seen, 0.5).expand(parts.run["n_motion_frames"], -1, -1, -1)
    for name, ours in zip(("mean", "std"), parts.vae.posterior(torch.cat([parts.seen, grey])), strict=True):
        yield relative(f"VAE's {name}", ours, projected[f"vae_{name}"], OUTPUT)
    latents = projected["vae_mean"] + projected["vae_std"] * given["vae_noise_ref"][0]
    yield relative("reference latents", latents * parts.run["latent_scale"], reference["ref_latents"], OUTPUT)
    latents = parts.vae.encode(torch.cat([parts.seen, parts.before])) * parts.run["latent_scale"]
    yield relative("reference latents with motion frames", latents, reference["mf_ref_latents"], OUTPUT)
    yield from _banks(parts, reference)


def _banks(parts: Parts, official: Any) -> Iterator[Row]:
    for prefix, label in (("", "bank"), ("mf_", "bank with motion frames")):
        if f"{prefix}bank.00" not in official:
            continue
        portrait, motion = parts.bank(official[f"{prefix}ref_latents"])
        for index, block in enumerate(parts.values["bank_names"]):
            name = block.removesuffix(".transformer_blocks.0")
            ours = torch.cat([portrait[name], motion[name][0]])
            yield relative(f"{label} {index:02d}", ours, official[f"{prefix}bank.{index:02d}"], OUTPUT)


def predictions(folder: Folder, parts: Parts) -> Iterator[Row]:
    official, silent = folder.vectors("d_denoise"), folder.vectors("e_denoise_audio_zero")
    for flag, mode in MODES.items():
        told = _single(folder, parts)
        yield relative(f"{mode} prediction", parts.head.denoise(*told, mode=mode), official[f"{flag}_pred"], OUTPUT)
        told[4] = torch.zeros_like(told[4])
        yield relative(f"{mode} prediction without audio", parts.head.denoise(*told, mode=mode), silent[f"{flag}_pred"], OUTPUT)
        several = parts.head.denoise(*_several(folder, parts), mode=mode)
        yield relative(f"{mode} prediction of several frames", several, official[f"mf_{flag}_pred"], OUTPUT)
        if f"{flag}_pred_no_mask_feature" in official:
            told = _single(folder, parts)
            told[3] = torch.zeros_like(told[3])
            nowhere = parts.head.denoise(*told, mode=mode)
            yield relative(f"{mode} prediction without a face's place", nowhere, official[f"{flag}_pred_no_mask_feature"], OUTPUT)


def _single(folder: Folder, parts: Parts) -> list[Any]:
    """What `denoise` is told in case (d)."""
    face, bank = parts.head.locate(parts.region), parts.bank(folder.vectors("c_reference")["ref_latents"])
    noisy = folder.vectors("d_denoise")["noisy"]
    return [noisy, int(parts.inputs["t"][0]), parts.tokens, face, parts.audio(), parts.masks(), *bank]


def _several(folder: Folder, parts: Parts) -> list[Any]:
    face, bank = parts.head.locate(parts.face_several), parts.bank(folder.vectors("c_reference")["mf_ref_latents"])
    given = parts.inputs
    return [given["mf_noisy"], int(given["mf_t"]), parts.tokens, face, parts.audio("mf_"), parts.masks("mf_"), *bank]


def blocks(folder: Folder, parts: Parts) -> Iterator[Row]:
    """One audio module, one spatial block and the middle's motion module, each from its own official input."""
    official, unet, told = folder.vectors("f_blocks"), parts.head.denoiser.unet, parts.values["audio_block"]
    module, tokens = unet.get_submodule(told["audio"]), official["audio.tokens"]
    masks = parts.level("mf_", told["level"])
    maps, made = official["audio.module_in"][0].transpose(0, 1), official["audio.module_out"][0].transpose(0, 1)
    yield relative("audio module", module(maps, tokens, masks), made, OUTPUT)
    block: Any = module.transformer_blocks[0]
    parts_of_it = {f"attn2_{index}": f"attn2_{index}" for index in range(len(REGIONS))}
    parts_of_it |= {f"zero_conv_{region}": f"zero_conv_{region}" for region in REGIONS}
    kept, out = _outputs(block, parts_of_it, lambda: block(official["audio.block_in"], tokens, masks, (1, 1, 1)))
    yield relative("audio block", out, official["audio.block_out"], OUTPUT)
    for name, value in kept.items():
        yield relative(f"audio block's {name}", value, official[f"audio.{name}_out"], OUTPUT)
    silent = block(official["audio.block_in"], torch.zeros_like(tokens), masks, (1, 1, 1))
    yield relative("audio block without audio", silent, official["audio.block_out_audio_zero"], OUTPUT)
    name = parts.values["spatial_block"].removesuffix(".transformer_blocks.0")
    bank, motion = parts.bank(folder.vectors("c_reference")["mf_ref_latents"])
    yield relative("motion frames' features", motion[name], official["other.motion_frames"], OUTPUT)
    spatial: Any = unet.get_submodule(parts.values["spatial_block"])
    context = parts.tokens.expand(len(official["other.block_in"]), -1, -1)
    attended = spatial(official["other.block_in"], encoder_hidden_states=context, cross_attention_kwargs={"bank": bank})
    yield relative("spatial block", attended, official["other.block_out"], OUTPUT)
    frames = official["other.motion_in"][0].transpose(0, 1)
    moved = unet.mid_block.motion_modules[0](frames, num_frames=len(frames))
    yield relative("motion module", moved, official["other.motion_out"][0].transpose(0, 1), OUTPUT)


def activations(folder: Folder, parts: Parts) -> Iterator[Row]:
    """Each module of the denoiser in case (d)."""
    official = folder.vectors("k_activations")
    for flag, mode in MODES.items():
        names = {key.removeprefix(f"{flag}."): key for key in official if key.startswith(f"{flag}.")}
        kept, _ = _outputs(parts.head.denoiser.unet, names, partial(parts.head.denoise, *_single(folder, parts), mode=mode))
        for name, value in kept.items():
            yield relative(f"{mode} {name}", value.transpose(0, 1)[None], official[names[name]], OUTPUT)


def _outputs(network: nn.Module, names: dict[str, str], run: Callable[[], Tensor]) -> tuple[dict[str, Tensor], Tensor]:
    """What these modules below `network` give during a run, and what the run gives."""
    kept: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, inputs: object, output: Any) -> None:
        kept[name] = output[0] if isinstance(output, tuple) else output

    hooks = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    try:
        out = run()
    finally:
        for hook in hooks:
            hook.remove()
    assert kept.keys() == names.keys()
    return kept, out
