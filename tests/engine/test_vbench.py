"""VBench's frames and scores against torchvision and by construction; its own figures are in the baseline vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from stillguard.engine.metrics import vbench
from stillguard.engine.metrics.video_clip import HeldClip, windows
from stillguard.engine.weights.reading import WeightsError
from torch import Tensor, nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

SIZES = [(256, 200), (150, 256), (223, 222)]


def levels(frames: Tensor) -> Tensor:
    return (frames * 255).round().byte()


@pytest.mark.parametrize("size", SIZES)
def test_clip_sees_what_vbench_prepares(astronaut: Tensor, size: tuple[int, int]) -> None:
    frames = astronaut[..., : size[0], : size[1]]
    prepare = transforms.Compose(
        [transforms.Resize(224, interpolation=InterpolationMode.BICUBIC, antialias=False), transforms.CenterCrop(224)]
    )
    torch.testing.assert_close(vbench.aesthetic_pixels(frames), prepare(levels(frames)).float() / 255)


def test_musiq_sees_what_vbench_prepares(astronaut: Tensor) -> None:
    large = torch.cat([astronaut, astronaut.flip(-1), astronaut], -1)
    # int(scale * side), as its code has it: 512/768 of 256.
    official = transforms.Resize((int(512 / 768 * 256), int(512 / 768 * 768)), antialias=False)(levels(large)).float() / 255
    torch.testing.assert_close(vbench.imaging_pixels(large), official)
    torch.testing.assert_close(vbench.imaging_pixels(astronaut), astronaut)


def test_every_second_frame_is_predicted_from_its_neighbours() -> None:
    # Brightness rises evenly up to frame 4 and then stands: the middle of two frames is right everywhere but at frame 5.
    frames = torch.tensor([0, 10, 20, 30, 40, 60, 60, 60]).view(-1, 1, 1, 1).expand(-1, 3, 4, 5) / 255
    measure = vbench.motion_smoothness_measure(lambda before, after: (before + after) / 2 + 0.1 / 255)
    runs = windows(HeldClip(frames.movedim(1, -1)).read(), measure.descriptor.span, measure.descriptor.stride)
    scores = measure.score(torch.cat([measure.descriptor.describe(run) for run in runs]))
    assert scores.tolist() == pytest.approx([1, 1, 1 - 10 / 255])


def test_a_frozen_video_is_smooth_and_a_prediction_of_noise_is_not(astronaut: Tensor) -> None:
    still = astronaut.expand(2, -1, -1, -1)
    # Truncation, as in VBench, takes at most one level.
    assert vbench.smoothness(still, still).tolist() == pytest.approx([1, 1], abs=1 / 255)
    noise = torch.rand(still.shape, generator=torch.Generator().manual_seed(0))
    assert vbench.smoothness(still, noise).max() < 0.7


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    values = np.random.RandomState(0).standard_normal(769).astype(np.float32)
    torch.save({"weight": torch.from_numpy(values[None, :768]), "bias": torch.from_numpy(values[768:])}, tmp_path / "head.pth")
    return tmp_path / "head.pth"


def test_aesthetic_quality_is_a_tenth_of_the_head_on_unit_embeddings(head_file: Path, astronaut: Tensor) -> None:
    state = torch.load(head_file, weights_only=True)
    embeddings = torch.randn(2, 768, generator=torch.Generator().manual_seed(0)) * 5
    seen: list[Tensor] = []

    def embed(pictures: Tensor) -> Tensor:
        seen.append(pictures)
        return embeddings

    measure = vbench.aesthetic_measure(embed, vbench.load_aesthetic_head(head_file))
    scores = measure.score(measure.descriptor.describe(astronaut.expand(2, -1, -1, -1)[:, None]))
    unit = embeddings.double().numpy() / np.linalg.norm(embeddings.double().numpy(), axis=1, keepdims=True)
    expected = (unit @ state["weight"].double().numpy()[0] + float(state["bias"])) / 10
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    assert seen[0].shape == (2, 3, 224, 224)


def test_other_files_are_no_aesthetic_head(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1, 512), "bias": torch.zeros(1)}, tmp_path / "vit_b.safetensors")
    with pytest.raises(WeightsError, match=r"vit_b.safetensors is not LAION's aesthetic head for CLIP ViT-L/14"):
        vbench.load_aesthetic_head(tmp_path / "vit_b.safetensors")


def test_imaging_quality_is_a_hundredth_of_what_the_network_says(astronaut: Tensor) -> None:
    measure = vbench.imaging_quality_measure(nn.Sequential(nn.Flatten(), _Brightness()))
    scores = measure.score(measure.descriptor.describe(torch.stack([astronaut, astronaut / 2])))
    assert scores.tolist() == pytest.approx([float(astronaut.mean()), float(astronaut.mean()) / 2], abs=1 / 255)


class _Brightness(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return 100 * values.mean(1)
