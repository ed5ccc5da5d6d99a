"""Anti-I2V's workflows: protect a photo from the user's own diffusion transformer, and attack it with core's nodes at once."""

from __future__ import annotations

from .workflow_node import Link, Node
from .workflows_attack import (
    BRANCHES,
    CLEAN,
    MODELS,
    WATCHED,
    branches,
    decoded,
    fixed,
    kept,
    loader,
    pictures,
    prompts,
    report,
    sampled,
    watched,
)
from .workflows_core import wan_branch, wan_models

COG_SIZE = {"width": 720, "height": 480}
SEEN = {"width": 480, "height": 320, "length": 17}
"""By the surrogate: smaller and shorter than the attack's video, which its memory would not hold."""

NOTE = """## Anti-I2V against {model}
Protects your photo from {model}, then lets {model} animate the photo, its protected version and the photo with random noise of the same \
budget, all with the same seed. **Protection Report** says what changed.

1. **Photo**: the unprotected original. Describe it in **Prompt**: the words belong to the protection too.
2. **I2V Surrogate** sets size and length of the videos that the protection looks at: smaller and shorter needs less memory. It cuts \
the photo to its aspect, in the middle: what is cut away is hardly protected. The model first makes such a video of the clean photo. \
*memory* in **Anti-I2V** set to *low memory* needs less again, and takes longer.
3. If you have protected the photo already, choose the file as **Your protected photo** and set the switch below it to *true*.
4. **Random Noise**: give it the *budget* of your protection.

{files} A model in fp8 is refused: it gives no gradients to trust.

If protected looks like clean, the photo is not protected. If noise does as much as protected, the method adds nothing. It was protected \
from this very model, which is the best case."""


def _protection(links: dict[str, Link]) -> list[Node]:
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), **links}
    guarded: dict[str, Link] = {"image": CLEAN, "i2v_surrogate": ("surrogate", 0)}
    return [
        Node("surrogate", "StillguardI2VSurrogate", (460, 40), (420, 420), widgets=SEEN, links=told),
        Node("protect", "StillguardAntiI2V", (460, 500), (420, 480), widgets=fixed(), links=guarded),
        kept((MODELS, 780)),
    ]


def _cog(name: str, image: Link, top: int) -> tuple[list[Node], Link]:
    """Core has no conditioning node of CogVideoX: InstructPix2Pix's puts the picture's latent where the model looks for it."""
    cut = {"upscale_method": "lanczos", **COG_SIZE, "crop": "center"}
    told: dict[str, Link] = {"positive": ("prompt", 0), "negative": ("avoid", 0), "vae": ("vae", 0), "pixels": (f"{name}_cut", 0)}
    sampler = {"steps": 25, "cfg": 6.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links: dict[str, Link] = {"model": ("model", 0), "positive": (f"{name}_told", 0), "negative": (f"{name}_told", 1)}
    return [
        Node(f"{name}_cut", "ImageScale", (BRANCHES, top), (400, 130), widgets=cut, links={"image": image}),
        Node(f"{name}_told", "InstructPixToPixConditioning", (BRANCHES, top + 190), (400, 100), f"Told: {name}", links=told),
        sampled(name, BRANCHES + 440, top, {**links, "latent_image": ("empty", 0)}, sampler),
        decoded(name, BRANCHES + 800, top, (f"{name}_sampler", 0), ("vae", 0)),
    ], (f"{name}_frames", 0)


def _attack(
    model: str, files: str, models: list[Node], protection: dict[str, Link], attacked: tuple[list[Node], dict[str, Link]], *, fps: float
) -> list[Node]:
    nodes, frames = attacked
    right = BRANCHES + 1080
    note = NOTE.format(model=model, files=files)
    shown = watched(frames, right, fps=fps)
    return [
        *pictures(note, _protection(protection), note_height=700),
        *models,
        *nodes,
        *report(frames, model, right, top=WATCHED, surrogate=True),
        *shown,
    ]


WORKFLOWS = {
    "attack_anti_i2v_cogvideox": _attack(
        "CogVideoX 5B image-to-video",
        "Needs CogVideoX 5B image-to-video in fp16 or bf16 among the diffusion models, its VAE and the text encoder *t5xxl*.",
        [
            loader("model", "UNETLoader", 40, unet_name="cogvideox_5b_i2v_bf16.safetensors"),
            loader("vae", "VAELoader", 200, vae_name="cogvideox_vae.safetensors"),
            loader("text", "CLIPLoader", 340, clip_name="t5xxl_fp16.safetensors", type="cogvideox"),
            *prompts(("text", 0)),
            Node("empty", "EmptyHunyuanLatentVideo", (1300, 440), (340, 140), widgets={**COG_SIZE, "length": 49}),
        ],
        {"model": ("model", 0), "vae": ("vae", 0)},
        branches(_cog),
        fps=8.0,
    ),
    "attack_anti_i2v_wan": _attack(
        "Wan 2.1",
        "Needs Wan 2.1 image-to-video 480p in fp16 or bf16, *wan_2.1_vae*, *clip_vision_h* and the text encoder *umt5_xxl*.",
        wan_models("wan2.1_i2v_480p_14B_fp16.safetensors"),
        {"model": ("model", 0), "vae": ("vae", 0), "clip_vision": ("encoder", 0)},
        branches(wan_branch),
        fps=16.0,
    ),
}
