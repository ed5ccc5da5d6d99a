"""What happens in a step never reads a number from the device: on the meta device, which has none, reading one is an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import talking
import torch
from bench import animator_files
from stillguard.engine import (
    RGB,
    RGBL2,
    Adam,
    Chroma,
    LowFrequency,
    MomentumSign,
    Normalised,
    Objective,
    Observation,
    Sign,
    Term,
    WorkingSize,
)
from stillguard.engine.animators.pose_animator import last_timesteps, load_pose_animator, noise_schedule
from stillguard.engine.losses import dormant, i2vguard
from stillguard.engine.losses.freeze import FrozenClip, FrozenVideo
from stillguard.engine.losses.posed import PosedClip, ReferenceSetup
from stillguard.engine.losses.silencer import SEVERAL
from stillguard.engine.objective import Loss
from stillguard.engine.observation import Features
from stillguard.engine.spaces import Space
from stillguard.engine.surrogates.denoiser import Tap
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from stillguard.engine.surrogates.reference_net import load_reference_net
from stillguard.engine.surrogates.video_setup import VideoSetup
from stillguard.engine.transforms import JPEG, GaussianBlur, GaussianNoise, ResizeBack, Transform
from stillguard.engine.update import Update
from support import RandomEncoder
from torch import Tensor, nn

META = torch.device("meta")


class Video(nn.Module):
    """A VideoModel that is a few convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = RandomEncoder()

    @property
    def conditioner(self) -> object:
        return self.vae

    def condition(self, image: Tensor) -> Features:
        return (self.vae.encode(image),)

    def still(self, image: Tensor) -> Tensor:
        return self.vae.encode(image)[:, :, None].expand(-1, -1, 3, -1, -1)

    prior = still

    def noised(self, latents: Tensor, noise: Tensor, level: float) -> Tensor:
        return (1 - level) * latents + level * noise

    def estimate(self, noisy: Tensor, level: float, conditioning: Features, *, taps: Sequence[Tap] = ()) -> Features:
        estimate = noisy * conditioning[0][:, :, None]
        return estimate, *(estimate.flatten(3).mT.softmax(-1) for _ in taps)


class OneMap(nn.Module):
    """A backbone of LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.layer(image)]


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=["fp32", "fp16"])
def losses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Loss]:
    files: dict[str, Path] = animator_files.animate_anyone(tmp_path_factory.mktemp("animators"))
    net = load_reference_net(files["reference_unet"], dtype=request.param).to(META)
    animator = load_pose_animator(*(files[n] for n in ("denoising_unet", "motion_module", "pose_guider")), dtype=request.param).to(META)
    vae, clip = RandomEncoder().to(META), RandomEncoder(1, channels=32).to(META)
    setup, pose = ReferenceSetup(net, vae, clip), torch.rand(1, 3, 64, 64, device=META)
    posed = PosedClip(animator, setup, pose, noise_schedule().alphas_cumprod, last_timesteps(), frames=2, noised=True)
    lpips = PerceptualNetwork(OneMap(), [nn.Conv2d(4, 1, 1)])
    video = VideoSetup(Video().to(META))
    picture = torch.zeros(1, 3, 64, 64, device=META)
    reader, head = (part.to(META) for part in talking.small(tmp_path_factory.mktemp("talking"), dtype=request.param))
    return {
        "VAE latent": dormant.VAELatent(vae),
        "CLIP semantic": dormant.CLIPSemantic(clip),
        "LPIPS": dormant.LPIPSPenalty(lpips.to(META)),
        "ReferenceNet": dormant.ReferenceFeature(setup),
        "frames": dormant.FrameIncoherence(posed),
        "target latent": i2vguard.TargetLatent(vae, picture),
        "contrast": i2vguard.ContrastiveFrames(video, picture),
        "attention": i2vguard.TemporalAttention(video, (0,)),
        "frozen clip": FrozenClip(replace(posed, drawn=True, pose=pose.expand(3, -1, -1, -1))),
        "frozen video": FrozenVideo(video),
        "silence": talking.nullifying(reader, head, vae, sampled="nothing", windows=SEVERAL[:2]),
        "L2": i2vguard.L2Penalty(),
    }


@pytest.mark.parametrize("low_memory", [False, True])
def test_no_loss_reads_from_the_device(losses: dict[str, Loss], low_memory: bool) -> None:
    clean = torch.rand(1, 3, 72, 64, device=META)
    leaf = torch.zeros_like(clean, requires_grad=True)
    working = WorkingSize(64)
    objective = Objective(tuple(Term(name, 1.0, loss) for name, loss in losses.items()))
    seen = Observation(working(RGB().render(clean, None, (leaf,))), low_memory=low_memory)
    told = objective.backward(Observation(working(clean)), seen)
    assert told.keys() == losses.keys()
    assert leaf.grad is not None


@pytest.mark.parametrize("transform", [GaussianBlur(1.0), JPEG(50), GaussianNoise(0.1, seed=1), ResizeBack(0.7)])
def test_no_transformation_reads_from_the_device(transform: Transform) -> None:
    picture = torch.rand(2, 3, 64, 48, device=META, requires_grad=True)
    transform(picture).sum().backward()
    assert picture.grad is not None


@pytest.mark.parametrize("update", [MomentumSign(), Sign(), Normalised(), Adam()])
@pytest.mark.parametrize("space", [RGB(), RGBL2(), Chroma(), LowFrequency()])
@pytest.mark.parametrize("masked", [False, True])
def test_no_update_reads_from_the_device(update: Update, space: Space, masked: bool) -> None:
    clean = torch.rand(2, 3, 8, 8, device=META)
    mask = torch.rand(1, 1, 8, 8, device=META) if masked else None
    variables = space.start(clean, mask, torch.Generator())
    ascend = update.begin(variables, unit=space.unit)
    for _ in range(2):
        variables = space.project(clean, mask, ascend(variables, variables))
    assert space.render(clean, mask, variables).shape == clean.shape
