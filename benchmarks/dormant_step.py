"""A step of Dormant's reference profile against the same step in the order of work of the official code, written plainly here.

    nox -s benchmarks -- dormant_step                       small random networks: the same gradient, time, memory, operations
    nox -s benchmarks -- dormant_step --flops               operations at full size and 512 px, counted without running anything
    nox -s benchmarks -- dormant_step --full [--options]    full-size random networks on a CUDA device

The plain step computes clean features of both Magic nets anew, shows MagicAnimate's the picture twice, sends gradients through
both rows of classifier-free guidance, lets all rows read the bank and computes the unconditional half again without it, loops over
pairs of frames, and goes back once from the sum of all losses. Both sides use the same modules in turn; effect is no subject.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch
from bench import animator_files, cpu_shim, memory, paths, weights
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

cpu_shim.install()

from diffusers import AutoencoderKL, UNetMotionModel  # noqa: E402
from diffusers.models.attention_processor import AttnProcessor2_0  # noqa: E402
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding  # noqa: E402
from stillguard.engine import RGB, MomentumSign, Objective, Observation, Term, WorkingSize, protect  # noqa: E402
from stillguard.engine.animators import motion_unet, pose_animator  # noqa: E402
from stillguard.engine.compute import tiling  # noqa: E402
from stillguard.engine.draws import SeededDraws  # noqa: E402
from stillguard.engine.losses import dormant  # noqa: E402
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup  # noqa: E402
from stillguard.engine.picture import nearest_signed  # noqa: E402
from stillguard.engine.surrogates import perceptual, reference_net, sd_unet  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # noqa: E402

NETS = ("anyone", "magic animate", "magic pose")
WEIGHTS = {"vae": 10.0, "clip": 10.0, **dict.fromkeys(NETS, 100.0), "frames": 1.0, "lpips": -10.0}
FRAMES, GUIDANCE, THRESHOLD = 5, 3.5, 16 / 255
TIMESTEPS, SIGNAL = pose_animator.last_timesteps(), pose_animator.noise_schedule().alphas_cumprod
SEEDS = [next(seed for seed in itertools.count() if SeededDraws(seed).integer("timestep", 10) == t) for t in range(10)]  # each in turn
# UNets: widths, layers, context. VAE: widths, layers. CLIP: width, inner width, layers, heads.
SMALL = ((32, 64, 64, 64), 1, 32), ((32, 32, 64, 64), 1), (64, 128, 2, 4)
FULL = ((320, 640, 1280, 1280), 2, 768), ((128, 256, 512, 512), 2), (1024, 4096, 24, 16)


class Encoder:
    """diffusers' VAE or transformers' CLIP, asked as losses ask, whatever its dtype."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        self.network: Any = nn.Module.to(network, dtype).eval().requires_grad_(False)  # diffusers' own `to` warns of nothing

    def encode(self, image: Tensor) -> Tensor:
        return self.network.encode((image * 2 - 1).to(self.network.dtype)).latent_dist.mean.float()

    def embed(self, image: Tensor) -> Tensor:
        return self.network(pixel_values=nearest_signed(image).to(self.network.dtype)).image_embeds.float()


class Scene:
    """All networks, and what both sides are given with the picture."""

    def __init__(self, sizes: Any, pixels: int, device: str, dtype: torch.dtype) -> None:
        (widths, layers, context), (vae_widths, vae_layers), (hidden, inner, depth, heads) = sizes
        blocks = {f"{kind}_block_types": (f"{name}Block2D",) * 4 for kind, name in (("down", "DownEncoder"), ("up", "UpDecoder"))}
        shape = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": depth, "num_attention_heads": heads}
        unet = {"block_out_channels": widths, "layers_per_block": layers, "cross_attention_dim": context}
        spatial = animator_files.unet_shapes(layers=layers, context=context, widths=widths)
        video = animator_files.shapes_of(lambda: UNetMotionModel(**unet, motion_num_attention_heads=8))
        motion = {name: shape for key, shape in video.items() if ".motion_m" in key for name in motion_unet.upstream_names(key)}
        guider = animator_files.shapes_of(lambda: ControlNetConditioningEmbedding(widths[0], 3, (16, 32, 96, 256)))
        torch.manual_seed(0)
        with torch.device(device):
            vae = AutoencoderKL(**blocks, block_out_channels=vae_widths, layers_per_block=vae_layers)
            clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**shape, patch_size=14, projection_dim=context))
            # Published formats differ in names only: once loaded, all three are this UNet, cut at the same place.
            self.nets = {name: reference_net.reference_net(random_state(spatial), name, dtype=dtype) for name in NETS}
            denoiser = pose_animator.denoiser_unet(random_state(spatial), random_state(motion), ("spatial", "motion"), dtype=dtype)
            self.animator = pose_animator.PoseAnimator(denoiser, pose_animator.pose_guider(random_state(guider), "guider", dtype=dtype))
            self.text, self.pose = torch.randn(1, 77, context), torch.rand(1, 3, pixels, pixels)
            self.clean = F.interpolate(torch.rand(1, 3, 8, 8), size=(pixels, pixels), mode="bilinear")  # smooth, as photos are
            self.start = (torch.rand_like(self.clean) * 2 - 1) * 8 / 255
        self.vae, self.clip = tiling.Tiled(Encoder(vae, dtype), tile=pixels // 2), Encoder(clip, dtype)
        self.lpips = perceptual.load_perceptual_network(weights.lpips_backbone(paths.BENCH / "models" / "stillguard")).to(device)


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that neither damp nor amplify, on the device at hand; norms are the identity."""
    fans = {key: torch.Size(shape[1:]).numel() for key, shape in shapes.items() if len(shape) > 1}
    wide = {key: (torch.rand(shapes[key]) - 0.5) * (12 / fan) ** 0.5 for key, fan in fans.items()}
    return {key: wide[key] if key in wide else torch.full(shape, float(key.endswith("weight"))) for key, shape in shapes.items()}


class Ours:
    def __init__(self, scene: Scene, terms: dict[str, float] = WEIGHTS) -> None:
        anyone = ReferenceSetup(scene.nets["anyone"], scene.vae, scene.clip, unconditional=True)
        losses: dict[str, Any] = {
            "vae": dormant.VAELatent(scene.vae, sd_unet.LATENT_SCALE),
            "clip": dormant.CLIPSemantic(scene.clip),
            "anyone": dormant.ReferenceFeature(anyone),
            **{n: dormant.ReferenceFeature(ReferenceSetup(scene.nets[n], scene.vae, scene.text), TIMESTEPS) for n in NETS[1:]},
            "frames": dormant.FrameIncoherence(PosedClip(scene.animator, anyone, scene.pose, SIGNAL, TIMESTEPS, FRAMES, GUIDANCE)),
            "lpips": dormant.LPIPSPenalty(scene.lpips, THRESHOLD),
        }
        self.objective = Objective(tuple(Term(name, weight, losses[name]) for name, weight in terms.items()))
        self.scene, self.clean = scene, Observation(scene.clean)

    def backward(self, image: Tensor, draws: SeededDraws) -> None:
        self.objective.backward(self.clean, Observation(image, draws=draws))

    def steps(self) -> Iterator[object]:
        working, space, update = WorkingSize(self.scene.clean.shape[-1]), RGB(8), MomentumSign()
        draws = map(SeededDraws, itertools.cycle(SEEDS))
        return protect(self.scene.clean, self.objective, working_size=working, space=space, update=update, draws=draws, steps=10**6)


class PlainAttention:
    """All rows read the bank; then the unconditional half is computed again without it."""

    def __init__(self, name: str) -> None:
        self.name, self.attend = name, AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any, attention_mask: Any, bank: Any) -> Tensor:
        half = len(hidden_states) // 2
        attended = self.attend(attn, hidden_states, torch.cat([hidden_states, bank[self.name].repeat_interleave(half, dim=0)], dim=1))
        return torch.cat([self.attend(attn, hidden_states[:half]), attended[half:]])


class Plain:
    def __init__(self, scene: Scene, terms: dict[str, float] = WEIGHTS) -> None:
        self.scene, self.terms = scene, terms
        self.processors = [(b.attn1, PlainAttention(n), b.attn1.processor) for n, b in sd_unet.spatial_blocks(scene.animator.unet)]
        with torch.no_grad():
            self.latent, self.embedding = scene.vae.encode(scene.clean) * sd_unet.LATENT_SCALE, scene.clip.embed(scene.clean)
            self.anyone = self.reference(self.latent, self.embedding)
            self.pose = scene.animator.guide(scene.pose.expand(FRAMES, -1, -1, -1))

    def reference(self, latent: Tensor, embedding: Tensor) -> tuple[Tensor, ...]:
        return self.scene.nets["anyone"](torch.cat([latent, latent]), 0, torch.stack([torch.zeros_like(embedding), embedding]))

    def magic(self, latent: Tensor, timestep: int) -> dict[str, tuple[Tensor, ...]]:
        twice = self.scene.nets["magic animate"](torch.cat([latent, latent]), timestep, torch.cat([self.scene.text, self.scene.text]))
        return {"magic animate": twice, "magic pose": self.scene.nets["magic pose"](latent, timestep, self.scene.text)}

    def backward(self, image: Tensor, draws: SeededDraws) -> None:
        timestep = TIMESTEPS[draws.integer("timestep", len(TIMESTEPS))]
        with torch.no_grad():
            clean = {**self.magic(self.latent, timestep), "anyone": self.anyone}
        latent, embedding = self.scene.vae.encode(image) * sd_unet.LATENT_SCALE, self.scene.clip.embed(image)
        seen = {**self.magic(latent, timestep), "anyone": self.reference(latent, embedding)}
        losses = {name: torch.stack([F.mse_loss(*pair) for pair in zip(seen[name], clean[name], strict=True)]).mean() for name in NETS}
        losses |= {"vae": F.mse_loss(latent, self.latent), "clip": F.mse_loss(embedding, self.embedding)}
        losses["frames"] = self.frames(seen["anyone"], embedding, timestep, draws)
        losses["lpips"] = (self.scene.lpips(image, self.scene.clean) - THRESHOLD).clamp_min(0).mean()
        torch.stack([weight * losses[name] for name, weight in self.terms.items()]).sum().backward()

    def frames(self, features: tuple[Tensor, ...], embedding: Tensor, timestep: int, draws: SeededDraws) -> Tensor:
        animator, (batch, channels, height, width) = self.scene.animator, self.latent.shape
        noise = draws.normal("frames", (batch, channels, FRAMES, height, width)).to(self.latent)
        bank, tokens = dict(zip(animator.names, features, strict=True)), torch.stack([torch.zeros_like(embedding), embedding])
        for attention, plain, _ in self.processors:
            attention.set_processor(plain)
        free, conditional = animator.denoise(torch.cat([noise, noise]), timestep, tokens, self.pose, bank).chunk(2)
        for attention, _, ours in self.processors:
            attention.set_processor(ours)
        signal, velocity = float(SIGNAL[timestep]), free + GUIDANCE * (conditional - free)
        frames = (signal**0.5 * noise - (1 - signal) ** 0.5 * velocity).unbind(dim=2)
        aligned = torch.stack([F.mse_loss(frame, self.latent) for frame in frames]).mean()
        return aligned + torch.stack([F.mse_loss(a, b) for a, b in itertools.combinations(frames, 2)]).mean()

    def steps(self) -> Iterator[object]:
        clean, delta, momentum = self.scene.clean, self.scene.start, torch.zeros_like(self.scene.start)
        for seed in itertools.cycle(SEEDS):
            leaf = delta.clone().requires_grad_()
            self.backward(clean + leaf, SeededDraws(seed))
            momentum = leaf.grad / leaf.grad.abs().mean() + 0.5 * momentum
            delta = (clean + (delta + momentum.sign() / 255).clamp(-8 / 255, 8 / 255)).clamp(0, 1) - clean
            yield


def gradient(side: Ours | Plain) -> Tensor:
    leaf = (side.scene.clean + side.scene.start).requires_grad_()
    side.backward(leaf, SeededDraws(0))
    return leaf.grad


def difference(scene: Scene, terms: dict[str, float]) -> float:
    ours, plain = gradient(Ours(scene, terms)), gradient(Plain(scene, terms))
    return float((ours - plain).norm() / plain.norm())


def operations(sizes: Any, pixels: int) -> Iterator[float]:
    """TFLOP of a step of ours and of the plain one, two for a multiplication with its addition, from shapes alone."""
    scene = Scene(sizes, pixels, "meta", torch.float32)
    for side in (Ours(scene), Plain(scene)):
        gradient(side)  # ours keeps clean features from here on
        with FlopCounterMode(display=False) as counter:
            gradient(side)
        yield counter.get_total_flops() / 1e12


def seconds(steps: Iterator[object]) -> float:
    began = time.perf_counter()
    next(steps)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def running(side: type[Ours | Plain], scene: Scene) -> Iterator[object]:
    """Steps past those that meet a timestep for the first time, whose clean features ours then keeps."""
    for _ in itertools.islice(steps := side(scene).steps(), len(TIMESTEPS) + 1):
        pass
    return steps


def peak(side: type[Ours | Plain], scene: Scene) -> float:
    """GiB at most on top of the networks, all that a run keeps included."""
    if not torch.cuda.is_available():
        with memory.peak_bytes() as peaked:
            running(side, scene)
        return peaked() / 2**30
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    running(side, scene)
    return (torch.cuda.max_memory_allocated() - before) / 2**30


def row(name: str, ours: float, plain: float, ratio: float | None = None) -> None:
    print(f"{name:24} {ours:8.3f} {plain:9.3f} {ours / plain if ratio is None else ratio:7.3f}", flush=True)


def compare(scene: Scene, rounds: int) -> float:
    row("peak GiB", peak(Ours, scene), peak(Plain, scene))
    ours, plain = running(Ours, scene), running(Plain, scene)
    pairs = [(seconds(ours), seconds(plain)) for _ in range(rounds)]
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    row("seconds", *medians, statistics.median(a / b for a, b in pairs))
    return medians[1]


def options(scene: Scene, rounds: int, plain: float) -> None:
    """Ours under settings of torch, against the plain step without them."""
    unets = [*(net.unet for net in scene.nets.values()), scene.animator.unet]

    def try_out(name: str, setting: contextlib.AbstractContextManager[object]) -> None:
        try:
            with setting:
                steps = running(Ours, scene)
                row(name, statistics.median(seconds(steps) for _ in range(rounds)), plain)
        except RuntimeError as error:
            print(f"{name:24} {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
        try_out(f"SDPA {backend.name}", sdpa_kernel(backend))
    for unet in unets:
        unet.to(memory_format=torch.channels_last)
    try_out("channels_last", contextlib.nullcontext())
    for unet in unets:
        unet.to(memory_format=torch.contiguous_format).compile()
    try_out("torch.compile", contextlib.nullcontext())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("--flops", "--full", "--options", "--force"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--size", type=int, help="pixels; 512 with --full, otherwise 128")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 with --full, otherwise float32")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if given.flops:
        print(f"{'full size, 512 px':24} {'TFLOP':>8} {'published':>9} {'ratio':>7}")
        for name, published, counted in zip(("ours, least", "plain, official"), (29.9, 44.1), operations(FULL, 512), strict=True):
            row(name, counted, published)
        return
    if (given.full or given.options) and device == "cpu" and not given.force:
        raise SystemExit("--full and --options are for CUDA, which this machine lacks: leave them out, or add --force to try anyway.")
    sizes, pixels = FULL if given.full else SMALL, given.size or (512 if given.full else 128)
    dtype = getattr(torch, given.dtype or ("bfloat16" if given.full else "float32"))
    torch.backends.cudnn.allow_tf32 = dtype != torch.float32  # or the two sides would differ by its rounding to ten bits
    scene = Scene(sizes, pixels, device, dtype)
    errors = torch.tensor([difference(scene, terms) for terms in (WEIGHTS, *({name: 1.0} for name in WEIGHTS))])
    print(f"{torch.__version__}, {device}, {pixels} px, {dtype}, {torch.get_num_threads()} threads, {given.rounds} rounds in turn, medians")
    print(f"gradients differ by {errors[0]:.1e} of their norm, those of single terms by {errors[1:].max():.1e} at most")
    if dtype == torch.float32 and not errors.max() < 1e-3:
        raise SystemExit("The two sides compute different gradients, so their times cannot be compared.")
    print(f"{'':24} {'ours':>8} {'plain':>9} {'ratio':>7}")
    row("TFLOP", *operations(sizes, pixels))
    median = compare(scene, given.rounds)
    if given.options:
        options(scene, given.rounds, median)


if __name__ == "__main__":
    main()
