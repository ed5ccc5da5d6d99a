"""Every node that computes, small and with all numbers in fp32, so that its result on a GPU is the CPU's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from adm_files import small_adm
from bench import animator_files
from pretend_gpu import CUDA, PretendGPU
from stillguard.engine.metrics.networks.dino import DinoTransformer
from stillguard.engine.surrogates.tiny_autoencoder import SHIPPED
from torch import Tensor
from video_models import FILES, load, randn

SIDE = 64


@dataclass(frozen=True)
class Case:
    """run(folder, low_memory) -> what the node computed, from inputs that it makes anew. low_memory: whether there is such a choice."""

    run: Callable[..., Tensor]
    low_memory: bool = False
    # Core draws noise of ancestral samplers on the device, where the same seed gives other numbers.
    drawn: bool = False


@contextlib.contextmanager
def comfy_on(gpu: PretendGPU, vram: str = "NORMAL_VRAM", *, cpu_vae: bool = False, half: bool = False) -> Iterator[PretendGPU]:
    """ComfyUI's memory management on the pretend GPU; what it had loaded before is as it was afterwards.

    Core's models are in fp32. half: networks and copies of ours are in the precision that they would have on a GPU, not in fp32.
    """
    import comfy.cli_args
    import comfy.model_management as management
    from stillguard.nodes.bridge.memory import precision

    values = {"cpu_state": management.CPUState.GPU, "vram_state": management.VRAMState[vram], "lowvram_available": True}
    answers = {"get_torch_device": CUDA, "get_all_torch_devices": [CUDA], "is_nvidia": True, "is_amd": False, "is_intel_xpu": False}
    flags = {"cpu": False, "cpu_vae": cpu_vae, "fp32_vae": True, "fp32_unet": True, "fp32_text_enc": True}
    before = list(management.current_loaded_models)
    management.current_loaded_models.clear()
    with gpu, contextlib.ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch.object(management, name, value))
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(management, name, lambda *args, answer=answer, **named: answer))
        stack.enter_context(mock.patch.object(management, "cuda_device_context", return_value=contextlib.nullcontext()))
        if not half:
            stack.enter_context(mock.patch.object(precision, "gradient_dtype", return_value=torch.float32))
        for name, value in flags.items():
            stack.enter_context(mock.patch.object(comfy.cli_args.args, name, value))
        try:
            yield gpu
        finally:
            management.current_loaded_models[:] = before
            # What has gone meanwhile was not in core's list when it went.
            management.cleanup_models()


def photo(side: int = SIDE) -> Tensor:
    """IMAGE [1,side,side,3], smooth."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1).movedim(1, -1)


def execute(node: Any, **inputs: object) -> Tensor:
    """The node's first output, as the server calls it."""
    return node.PREPARE_CLASS_CLONE(None).execute(**inputs).args[0]


def vae() -> Any:
    import folder_paths

    import nodes

    folder_paths.add_model_folder_path("vae", str(SHIPPED.parent))
    return nodes.VAELoader().load_vae(SHIPPED.name)[0]


def clip_vision(hidden: int = 64, projection: int = 32) -> Any:
    from testkit import tiny_clip_vision

    return tiny_clip_vision(hidden, projection)


def mask() -> Tensor:
    soft = torch.ones(1, SIDE, SIDE)
    soft[:, :16], soft[:, 16:32] = 0, 0.5
    return soft


def protect(folder: Path, *, low_memory: bool) -> Tensor:
    """VAE, image encoder and LPIPS, with a soft mask, transparency and every family of EoT."""
    from stillguard.engine.transforms import EoT
    from stillguard.nodes.losses.dormant import CLIPSemanticLoss, LPIPSPenalty, VAELatentLoss
    from stillguard.nodes.protect.protect import Protect

    losses = (
        *execute(VAELatentLoss, vae=vae(), weight=10.0, latent_scale=0.0),
        *execute(CLIPSemanticLoss, clip_vision=clip_vision(), weight=10.0),
        *execute(LPIPSPenalty, backbone="lpips_vgg16.safetensors", weight=10.0, threshold=0.0),
    )
    picture = torch.cat([photo(), torch.linspace(0, 1, SIDE)[None, :, None, None].expand(1, SIDE, SIDE, 1)], dim=-1)
    return execute(
        Protect,
        image=picture,
        loss=losses,
        budget=8.0,
        steps=3,
        update={"update": "adam", "step": 1.0},
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
        eot=EoT(samples=2),
        mask=mask(),
    )


def dual_space(folder: Path, *, low_memory: bool) -> Tensor:
    from stillguard.nodes.losses.dormant import VAELatentLoss
    from stillguard.nodes.protect.dual_space import CHROMA_FIRST, DualSpace
    from stillguard.nodes.protect.protect import Protect

    return execute(
        Protect,
        image=photo(),
        loss=execute(VAELatentLoss, vae=vae(), weight=10.0, latent_scale=0.0),
        budget=8.0,
        steps=4,
        update={"update": "normalised", "step": 1.0},
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
        mask=mask(),
        space=execute(DualSpace, spaces=CHROMA_FIRST, band="triangle", reach=0.25, mean=True, chroma_unit=1.0),
    )


def diffusion_surrogate(folder: Path, *, low_memory: bool) -> Tensor:
    """SDXL, which is told sizes beside the prompt, by a loss that only the tests have."""
    from image_models import image_model, image_prompt
    from stillguard.nodes.protect.protect import Protect
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit.denoising import DenoisingLoss

    surrogate = execute(DiffusionSurrogateNode, model=image_model("SDXL"), vae=vae(), positive=image_prompt())
    return execute(
        Protect,
        image=photo(),
        loss=execute(DenoisingLoss, diffusion_surrogate=surrogate, weight=1.0),
        budget=8.0,
        steps=2,
        update={"update": "momentum sign", "step": 1.0, "decay": 0.5},
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
    )


def learning_surrogate(folder: Path, *, low_memory: bool) -> Tensor:
    """SDXL again, which learns before the second step and the third, class pictures too."""
    from image_models import image_model, image_prompt
    from stillguard.nodes.protect.protect import Protect
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from stillguard.nodes.surrogates.learning import CO_TRAINING, LearningSurrogate
    from testkit.denoising import DenoisingLoss

    surrogate = execute(DiffusionSurrogateNode, model=image_model("SDXL"), vae=vae(), positive=image_prompt())
    learning = execute(
        LearningSurrogate,
        diffusion_surrogate=surrogate,
        instance_prompt=image_prompt(1),
        method={"method": CO_TRAINING, "every": 1, "training_steps": 1},
        rank=4,
        learning_rate=1e-3,
        prior_weight=0.1,
        class_images=photo().flip(1),
        class_prompt=image_prompt(2),
    )
    return execute(
        Protect,
        image=photo(),
        loss=execute(DenoisingLoss, diffusion_surrogate=learning, weight=1.0),
        budget=8.0,
        steps=3,
        update={"update": "momentum sign", "step": 1.0, "decay": 0.5},
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
    )


def inpainting(folder: Path, *, low_memory: bool) -> Tensor:
    """Both losses on SDXL's inpainting model; one mask stays, so that no contour hangs on a device's rounding."""
    from image_models import image_model, image_prompt
    from stillguard.nodes.losses.inpainting import SAME, EarlyNoiseLoss, RepaintedLoss
    from stillguard.nodes.protect.protect import Protect
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode

    surrogate = execute(DiffusionSurrogateNode, model=image_model("SDXL", in_channels=9), vae=vae(), positive=image_prompt())
    repainted = (mask() < 0.5).float()
    losses = (
        *execute(EarlyNoiseLoss, diffusion_surrogate=surrogate, repaint_mask=repainted, weight=1.0, mask_varies=SAME),
        *execute(RepaintedLoss, diffusion_surrogate=surrogate, repaint_mask=repainted, weight=0.1, target=photo(48)),
    )
    return execute(
        Protect,
        image=photo(),
        loss=losses,
        budget=8.0,
        steps=2,
        update={"update": "momentum sign", "step": 1.0, "decay": 0.5},
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
        mask=1 - repainted,
    )


def inpainting_baseline(folder: Path, *, low_memory: bool) -> Tensor:
    from image_models import image_model, image_prompt
    from stillguard.nodes.losses.inpainting import MORE
    from stillguard.nodes.protect.inpainting import InpaintingBaseline
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode

    surrogate = execute(DiffusionSurrogateNode, model=image_model("SDXL", in_channels=9), vae=vae(), positive=image_prompt())
    return execute(
        InpaintingBaseline,
        image=photo(),
        diffusion_surrogate=surrogate,
        repaint_mask=(mask() < 0.5).float(),
        method={"method": "DiffusionGuard", "budget": 8.0, "step": 1.0, "mask_varies": MORE},
        steps=2,
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
    )


def latent_space(mode: str) -> Callable[..., Tensor]:
    """A latent that a mask freezes, with the VAE's own loss, and for two of the modes SDXL."""

    def run(folder: Path, *, low_memory: bool) -> Tensor:
        from image_models import image_model, image_prompt
        from stillguard.nodes.losses.dormant import VAELatentLoss
        from stillguard.nodes.protect.latent_space import KEEP, NEAR, LatentSpace
        from stillguard.nodes.protect.protect import Protect
        from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode

        shared, prompt = vae(), image_prompt()
        face = torch.zeros(1, SIDE, SIDE)
        face[:, 20:40, 20:40] = 1
        sockets = {"vae": shared, "freeze_mask": face}
        if mode != "decoder":
            sockets["diffusion_surrogate"] = execute(
                DiffusionSurrogateNode,
                model=image_model("SDXL"),
                vae=shared,
                positive=prompt,
                negative=[[prompt[0][0].flip(1), prompt[0][1]]],
            )
        space = execute(LatentSpace, mode=mode, form="difference", trust_region=0.5, start=NEAR, freeze_step=1, freeze=KEEP, **sockets)
        return execute(
            Protect,
            image=photo(),
            loss=execute(VAELatentLoss, vae=shared, weight=10.0, latent_scale=0.0),
            budget=8.0,
            steps=2,
            update={"update": "adamw", "step": 1.0, "weight_decay": 0.01},
            seed=1,
            working_size=SIDE,
            memory="low memory" if low_memory else "fast",
            mask=mask(),
            space=space,
        )

    return run


def dormant(profile: str) -> Callable[..., Tensor]:
    def run(folder: Path, *, low_memory: bool) -> Tensor:
        from stillguard.nodes.protect.dormant import WEIGHTS, Dormant

        nets, animator = animators(folder)
        return execute(
            Dormant,
            image=photo(),
            vae=vae(),
            profile=profile,
            budget=8.0,
            steps=2,
            seed=1,
            working_size=SIDE,
            memory="low memory" if low_memory else "fast",
            reference_nets=nets,
            lpips_backbone="lpips_vgg16.safetensors",
            clip_vision=clip_vision(),
            clip=None if profile == "recommended" else PretendCLIP(),
            pose_animator=animator,
            pose=photo(),
            **WEIGHTS,
        )

    return run


class PretendCLIP:
    """In place of a text encoder, of which only the empty prompt's embedding is read."""

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[list[Tensor]]:
        return [[randn(1, 77, 32, seed=7)]]


def animators(folder: Path) -> tuple[dict[str, Any], Any]:
    """A ReferenceNet that reads the picture, one that reads text, and the animator."""
    from stillguard.nodes.bridge.surrogates.animators import pose_animator_from, reference_net_from

    files = animator_files.animate_anyone(folder / "animators") if not (folder / "animators").exists() else None
    files = files or {path.stem: path for path in (folder / "animators").glob("*.safetensors")}
    text = folder / "sd15.safetensors"
    text = text if text.exists() else animator_files.stable_diffusion(folder)
    nets = {"net0": reference_net_from(files["reference_unet"], "fp32"), "net1": reference_net_from(text, "fp32")}
    return nets, pose_animator_from(files["denoising_unet"], files["motion_module"], files["pose_guider"], "fp32")


def i2vguard(family: str, *, contrast: float = 1.0, **changes: object) -> Callable[..., Tensor]:
    def run(folder: Path, *, low_memory: bool) -> Tensor:
        from stillguard.nodes.bridge.video.model import Sampling
        from stillguard.nodes.protect.i2vguard import I2VGuard

        loaded = load(family, folder)
        chosen = {name: change() if callable(change) else change for name, change in changes.items()}
        spec = loaded.spec(sampling=Sampling(1, 1.5), **chosen)
        weights = {"target_weight": 1.0, "contrast_weight": contrast, "attention_weight": 1.0, "penalty_weight": 10.0}
        return execute(
            I2VGuard,
            image=photo(),
            i2v_surrogate=spec,
            mode={"mode": "hard", "budget": 8.0, "step": 1.0},
            steps=2,
            seed=1,
            working_size=SIDE,
            memory="low memory" if low_memory else "fast",
            reach=2.0,
            **weights,
        )

    return run


def anti_i2v(family: str, layers: str) -> Callable[..., Tensor]:
    """All of its losses by their nodes, with a few blocks for the collapse."""

    def run(folder: Path, *, low_memory: bool) -> Tensor:
        from stillguard.engine.surrogates.denoiser import HIGH
        from stillguard.nodes.bridge.video.model import Sampling
        from stillguard.nodes.losses.anti_i2v import DenoisingLoss, RepresentationAnchorLoss, RepresentationCollapseLoss, VelocityMinLoss
        from stillguard.nodes.protect.protect import Protect

        loaded = load(family, folder)
        common = {"i2v_surrogate": loaded.spec(sampling=Sampling(1, 1.5)), "weight": 1.0, "scaled": True}
        inside = {**common, "timesteps": HIGH}
        losses = (
            *execute(RepresentationCollapseLoss, **inside, layers=layers, stop_gradient=True),
            *execute(RepresentationAnchorLoss, **inside, layers="auto", vae=loaded.vae, unrelated=photo(48).flip(1)),
            *execute(DenoisingLoss, **inside),
            *execute(VelocityMinLoss, **common, kind="least velocity"),
        )
        update = {"update": "momentum sign", "step": 1.0, "decay": 0.5}
        memory = "low memory" if low_memory else "fast"
        return execute(Protect, image=photo(), loss=losses, budget=8.0, steps=1, update=update, seed=1, working_size=SIDE, memory=memory)

    return run


def anti_i2v_preset(folder: Path, *, low_memory: bool) -> Tensor:
    from stillguard.nodes.bridge.video.model import Sampling
    from stillguard.nodes.protect.anti_i2v import AntiI2V

    return execute(
        AntiI2V,
        image=photo(),
        i2v_surrogate=load("Wan", folder).spec(sampling=Sampling(1, 1.5)),
        profile={"profile": "recommended", "timesteps": "high noise"},
        budget=8.0,
        steps=2,
        seed=1,
        working_size=SIDE,
        memory="low memory" if low_memory else "fast",
        layers="0, 1",
        collapse_weight=1.0,
        anchor_weight=1.0,
        denoising_weight=1.0,
    )


def animate_pose(folder: Path) -> Tensor:
    from stillguard.nodes.attack.animate_pose import AnimatePose

    nets, animator = animators(folder)
    poses = torch.rand(3, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2))
    sizes = {"steps": 1, "guidance": 3.5, "working_size": SIDE, "window": 2, "overlap": 1}
    given = {"vae": vae(), "clip_vision": clip_vision(), "image": photo(), "pose": poses, "seed": 1}
    return execute(AnimatePose, pose_animator=animator, reference_net=nets["net0"], **given, **sizes)


def _face(folder: Path) -> tuple[Any, Any]:
    """The animator, and the photo framed by hand."""
    from stillguard.nodes.bridge.surrogates.face_animator import face_animator_from
    from stillguard.nodes.surrogates.face_animators import FramePortrait

    file = folder / "tha3_separable_float.safetensors"
    animator = face_animator_from(file if file.exists() else animator_files.face_animator(folder))
    hand = {"place": "by hand", "x": 0.5, "y": 0.3, "height": 0.4}
    framed = FramePortrait.PREPARE_CLASS_CLONE(None).execute(image=photo(), place=hand, right=0.0, down=0.0, size=1.0, mask=mask())
    return animator, framed.args[1]


def animate_face(folder: Path) -> Tensor:
    from stillguard.nodes.attack.animate_face import SLIDERS, AnimateFace

    animator, framing = _face(folder)
    pose = {**dict.fromkeys(SLIDERS, 0.0), "mouth_open": 1.0, "turn": 0.5}
    motion = {"motion": "one pose", "frames": 1}
    return execute(AnimateFace, face_animator=animator, image=photo(), framing=framing, motion=motion, background="transparent", **pose)


def disobedience(folder: Path) -> Tensor:
    from stillguard.nodes.losses.face import DisobedienceLoss
    from stillguard.nodes.protect.protect import Protect

    animator, framing = _face(folder)
    loss = DisobedienceLoss.execute(
        face_animator=animator, framing=framing, weight=1.0, turn=0.3, poses=1, framing_scale=0.1, framing_shift=0.05
    )
    update = {"update": "momentum sign", "step": 1.0, "decay": 0.5}
    chosen = {"budget": 8.0, "steps": 1, "update": update, "seed": 1, "working_size": SIDE, "memory": "low memory"}
    return execute(Protect, image=photo(), loss=loss.args[0], **chosen)


def _talking(folder: Path) -> dict[str, Any]:
    """What a talking head is shown and told."""
    from stillguard.nodes.bridge.surrogates.talking_head import talking_head_from
    from testkit import tiny_audio_encoder

    file = folder / "net.safetensors"
    if not file.exists():
        animator_files.talking_head(folder, widths=(32, 32, 64, 64), context=16, audio=(5 * 2 * 16, 6, 24))
    face = torch.zeros(1, SIDE, SIDE)
    face[:, 8:56, 8:56] = 1
    sound = {"waveform": randn(1, 2, 4000, seed=1), "sample_rate": 16000}
    given = {"vae": vae(), "audio_encoder": tiny_audio_encoder(), "audio": sound, "image": photo()}
    return {"talking_head": talking_head_from(file, "auto"), **given, "face_mask": face, "lips_mask": face * 0.5}


def animate_talking_head(folder: Path) -> Tensor:
    from stillguard.nodes.attack.animate_talking_head import AnimateTalkingHead

    return execute(AnimateTalkingHead, **_talking(folder), seed=1, steps=1, guidance=1.0, working_size=SIDE, profile="recommended")


def audio_nullifying(folder: Path, *, low_memory: bool) -> Tensor:
    from stillguard.nodes.losses.silencer import FAITHFUL, AudioNullifyingLoss
    from stillguard.nodes.protect.protect import Protect

    loss = execute(AudioNullifyingLoss, **_talking(folder), weight=1.0, network=FAITHFUL, windows="reference", audio_dropout=0.0)
    update = {"update": "momentum sign", "step": 1.0, "decay": 0.5}
    memory = "low memory" if low_memory else "fast"
    return execute(Protect, image=photo(), loss=loss, budget=8.0, steps=2, update=update, seed=1, working_size=SIDE, memory=memory)


def silencer(folder: Path, *, low_memory: bool) -> Tensor:
    """Both stages."""
    from stillguard.nodes.protect.silencer import BOTH, Silencer

    chosen = {"budget": 8.0, "steps": 1, "second_steps": 2, "seed": 1, "working_size": SIDE}
    memory = "low memory" if low_memory else "fast"
    return execute(Silencer, **_talking(folder), **chosen, profile="recommended", stages=BOTH, memory=memory)


def lab_victim(folder: Path) -> Tensor:
    from stillguard.nodes.attack.lab_victims import AnimateLabVictim

    return execute(AnimateLabVictim, image=photo(), pose=photo(), victim="unet", steps=1, seed=1)


def impress(folder: Path, *, low_memory: bool) -> Tensor:
    from stillguard.nodes.attack.purify_impress import PurifyImpress

    numbers = {"iterations": 2, "learning_rate": 0.01, "alpha": 0.1, "threshold": 0.0, "start_noise": 0.1, "seed": 1}
    memory = "low" if low_memory else "fast"
    return execute(PurifyImpress, image=photo(), vae=vae(), lpips_backbone="lpips_vgg16.safetensors", memory=memory, **numbers)


def diffusion(node: str, **numbers: object) -> Callable[..., Tensor]:
    def run(folder: Path) -> Tensor:
        from stillguard.nodes.attack import purify_diffusion
        from testkit import tiny_image_model

        sockets = {"model": tiny_image_model("sd15"), "vae": vae(), "positive": [[randn(1, 7, 16, seed=0), {}]]}
        return execute(getattr(purify_diffusion, node), image=photo(128), seed=1, **sockets, **numbers)

    return run


def with_adm(node: str, **numbers: object) -> Callable[..., Tensor]:
    def run(folder: Path) -> Tensor:
        from stillguard.nodes.attack import purify_diffusion
        from stillguard.nodes.bridge.attack.adm import adm_from

        path = folder / "small_adm.safetensors"
        loaded = adm_from(path if path.exists() else small_adm(folder), "fp32")
        return execute(getattr(purify_diffusion, node), image=photo(), seed=1, adm=loaded, **numbers)

    return run


def upscaling(node: str, **numbers: object) -> Callable[..., Tensor]:
    def run(folder: Path) -> Tensor:
        from stillguard.nodes.attack import purify_upscale
        from testkit import fourfold_vae, tiny_image_model

        text = [[randn(1, 7, 16, seed=0), {}]]
        sockets = {"model": tiny_image_model("x4"), "vae": fourfold_vae(), "positive": text, "negative": text}
        common = {"noise_level": 20, "steps": 1, "guidance": 2.0, "seed": 1}
        return execute(getattr(purify_upscale, node), image=photo(), **sockets, **common, **numbers)

    return run


def _sd15(vae: Any) -> Any:
    from stillguard.nodes.surrogates.diffusion_models import DiffusionSurrogateNode
    from testkit import tiny_image_model

    sockets = {"model": tiny_image_model("sd15"), "vae": vae, "positive": [[randn(1, 7, 16, seed=0), {}]]}
    return execute(DiffusionSurrogateNode, **sockets)


def baselines(folder: Path, *, low_memory: bool) -> Tensor:
    """Every loss on a model of pictures."""
    from stillguard.nodes.losses import baselines as losses
    from stillguard.nodes.protect.protect import Protect

    surrogate = _sd15(vae())
    on_model = {"diffusion_surrogate": surrogate, "weight": 1.0}
    loss = (
        *execute(losses.DenoisingErrorLoss, **on_model, direction=losses.AWAY),
        *execute(losses.ScoreDistillationLoss, **on_model, direction=losses.TOWARD),
        *execute(losses.TargetScoreLoss, **on_model),
        *execute(losses.LatentNormLoss, vae=surrogate.vae, weight=1.0),
    )
    how = {"budget": 8.0, "steps": 2, "update": {"update": "momentum sign", "step": 1.0, "decay": 0.5}, "seed": 1, "working_size": 128}
    return execute(Protect, image=photo(128), loss=loss, memory="low memory" if low_memory else "fast", **how)


def diffusion_baseline(method: str) -> Callable[..., Tensor]:
    """As published, with latents that are drawn."""

    def run(folder: Path, *, low_memory: bool) -> Tensor:
        from stillguard.nodes.protect.baselines import DiffusionBaseline
        from testkit import eightfold_vae

        how = {"steps": 2, "seed": 1, "working_size": 128, "memory": "low memory" if low_memory else "fast"}
        chosen = {"method": method, "settings": {"settings": "as published"}}
        return execute(DiffusionBaseline, image=photo(128), diffusion_surrogate=_sd15(eightfold_vae()), **chosen, **how)

    return run


def vgmshield(folder: Path, *, low_memory: bool) -> Tensor:
    from stillguard.nodes.protect.baselines import VGMShield

    how = {"steps": 2, "seed": 1, "working_size": SIDE, "memory": "low memory" if low_memory else "fast"}
    sockets = {"vae": vae(), "clip_vision": clip_vision(), "lpips_backbone": "lpips_vgg16.safetensors"}
    return execute(VGMShield, image=photo(), **sockets, settings={"settings": "as published"}, target=photo().flip(1), **how)


class Faces:
    """In place of insightface: every picture holds a face."""

    def get(self, picture: Any) -> list[Any]:
        from types import SimpleNamespace

        import numpy as np

        return [SimpleNamespace(bbox=np.array([0, 0, 9, 9]), normed_embedding=np.eye(512, dtype=np.float32)[0])]


class Landmarks:
    """In place of MediaPipe's network."""

    def detect_batch(self, pictures: list[Any], **_: object) -> list[list[dict[str, Any]]]:
        import numpy as np

        return [[{"landmarks_xy": np.random.RandomState(index).rand(478, 2) * 40}] for index, _ in enumerate(pictures)]


def rife() -> Any:
    """Core's interpolation network with random weights, as its loader hands it on."""
    import comfy.model_management
    import comfy.model_patcher
    from comfy_extras.frame_interpolation_models.ifnet import IFNet

    network, generator = IFNet().eval(), torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5
    devices = {"load_device": comfy.model_management.get_torch_device(), "offload_device": torch.device("cpu")}
    return comfy.model_patcher.CoreModelPatcher(network, **devices)


def metric_files(folder: Path) -> None:
    """Narrow DINO networks under their published names, where Compare Videos looks for them."""
    for name in ("dino_deitsmall16_pretrain.pth", "dino_vitbase16_pretrain.pth"):
        if not (folder / name).exists():
            state = DinoTransformer(width=64, depth=1, patch=16, positions=197).state_dict()
            torch.save(
                {key: torch.randn(value.shape, generator=torch.Generator().manual_seed(0)) / 8 for key, value in state.items()},
                folder / name,
            )


def compared(folder: Path) -> Any:
    from stillguard.nodes.evaluate.compare import CompareVideos

    frames = torch.rand(17, 48, 48, 3, generator=torch.Generator().manual_seed(3))
    noise = 0.05 * randn(17, 48, 48, 3, seed=4)
    groups = ("pixels", "lpips", "semantics", "consistency", "quality", "faces", "fid", "fvd")
    return execute(
        CompareVideos,
        clean=frames,
        protected=(frames + noise).clamp(0, 1),
        noise=(frames - noise).clamp(0, 1),
        ground_truth=frames,
        victim="victim",
        surrogate=False,
        measures={"measures": "choose", **dict.fromkeys(groups, True)},
        lpips_backbone="lpips_vgg16.safetensors",
        paper_conventions=True,
        length="equal",
        clip_vision=clip_vision(),
        interpolation_model=rife(),
        insightface=Faces(),
        face_detection_model=Landmarks(),
    )


def compare(folder: Path) -> Tensor:
    comparison = compared(folder)
    values = [
        reading.value
        for row in comparison.rows
        for reading in row.readings.values()
        if reading is not None and isinstance(reading.value, float)
    ]
    return torch.tensor(values)


def layer_probe(folder: Path) -> Tensor:
    import folder_paths
    from stillguard.nodes.evaluate.layer_probe import TOGETHER, LayerProbe

    sizes = {"level": 0.5, "blocks": "all", "frame": 0, "size": SIDE, "working_size": SIDE, "components": TOGETHER, "seed": 0}
    with mock.patch.object(folder_paths, "temp_directory", str(folder)):
        return execute(LayerProbe, image=photo(), i2v_surrogate=load("Wan", folder).spec(), **sizes)


ON_THE_HOST = "Animate (Lab Victim)"
"""The one that leaves the GPU's memory to the user's own models."""

CASES: Mapping[str, Case] = {
    "Protect": Case(protect, low_memory=True),
    "Diffusion Surrogate": Case(diffusion_surrogate, low_memory=True),
    "Learning Surrogate": Case(learning_surrogate, low_memory=True),
    "Inpainting losses": Case(inpainting, low_memory=True),
    "Inpainting Baseline": Case(inpainting_baseline, low_memory=True),
    "Dual Space": Case(dual_space, low_memory=True),
    "Latent Space, decoder": Case(latent_space("decoder"), low_memory=True),
    "Latent Space, one step": Case(latent_space("one step"), low_memory=True),
    "Latent Space, as published": Case(latent_space("as published"), low_memory=True),
    "Dormant, recommended": Case(dormant("recommended"), low_memory=True),
    "Dormant, reference": Case(dormant("reference"), low_memory=True),
    **{f"I2VGuard, {family}": Case(i2vguard(family), low_memory=True) for family in FILES},
    "I2VGuard, given video": Case(i2vguard("Wan", video=lambda: photo().repeat(5, 1, 1, 1)), low_memory=True),
    "Anti-I2V's losses": Case(anti_i2v("LTX", "0, 1"), low_memory=True),
    "Anti-I2V, the preset": Case(anti_i2v_preset, low_memory=True),
    # The model is cut, and the user's own makes the first video.
    "I2VGuard, early block": Case(i2vguard("Wan", contrast=0.0, blocks=(0,)), low_memory=True),
    "Baselines' losses": Case(baselines, low_memory=True),
    "Mist v1": Case(diffusion_baseline("Mist v1"), low_memory=True),
    "VGMShield": Case(vgmshield, low_memory=True),
    "Animate (Pose)": Case(animate_pose),
    "Animate (Face)": Case(animate_face),
    "Disobedience": Case(disobedience),
    "Animate (Talking Head)": Case(animate_talking_head),
    "Audio Nullifying": Case(audio_nullifying, low_memory=True),
    "Silencer": Case(silencer, low_memory=True),
    "Animate (Lab Victim)": Case(lab_victim),
    "Purify (Impress)": Case(impress, low_memory=True),
    "Purify (DiffPure), latents": Case(diffusion("PurifyDiffPure", timesteps=150, steps=2), drawn=True),
    "Purify (DDSPure), latents": Case(diffusion("PurifyDDSPure", radius=8.0)),
    "Purify (GrIDPure), latents": Case(diffusion("PurifyGrIDPure", timesteps=10, steps=1, iterations=1, gamma=0.1, window=128), drawn=True),
    "Purify (DiffPure), ADM": Case(with_adm("PurifyDiffPure", timesteps=1, steps=1)),
    "Purify (DDSPure), ADM": Case(with_adm("PurifyDDSPure", radius=8.0)),
    "Purify (DiffShortcut)": Case(upscaling("PurifyDiffShortcut", reduced_size=16)),
    "Purify (Noisy Upscaling)": Case(upscaling("PurifyNoisyUpscaling", sigma=0.1, working_size=16, output_size="of the picture")),
    "Compare Videos": Case(compare),
    "Layer Probe": Case(layer_probe),
}
