"""The classic measures against torchmetrics, piq and scikit-image, and DisCo's conventions one by one."""

from __future__ import annotations

import math
from pathlib import Path

import lpips
import numpy as np
import piq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import metrics
from stillguard.engine.metrics import image
from stillguard.engine.surrogates.perceptual import PerceptualNetwork
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

SIZE = (1, 2, 3)


@pytest.fixture(scope="module")
def frames(astronaut: Tensor) -> Tensor:
    return torch.cat([astronaut, astronaut.flip(-1)])


@pytest.fixture(scope="module")
def others(frames: Tensor) -> Tensor:
    """The first a little noisy, the second a little brighter, on the 8-bit grid."""
    noise = torch.randn(3, *frames.shape[-2:], generator=torch.Generator().manual_seed(0)) * 0.04
    return (torch.stack([frames[0] + noise, frames[1] * 1.2]).clamp(0, 1) * 255).round() / 255


def test_psnr_equals_torchmetrics_and_piq(frames: Tensor, others: Tensor) -> None:
    ours = image.psnr(frames, others)
    torch.testing.assert_close(ours, peak_signal_noise_ratio(others, frames, data_range=1.0, reduction="none", dim=SIZE))
    torch.testing.assert_close(ours, piq.psnr(others, frames, reduction="none"), atol=1e-3, rtol=0)


def test_ssim_equals_torchmetrics_and_piq(frames: Tensor, others: Tensor) -> None:
    ours = image.ssim(frames, others)
    settings = {"sigma": 1.5, "data_range": 1.0, "reduction": "none", "return_full_image": True}
    _, everywhere = structural_similarity_index_measure(others, frames, **settings)
    # torchmetrics averages over windows that reach past the border, too; scikit-image and piq leave them out.
    torch.testing.assert_close(ours, everywhere[..., 5:-5, 5:-5].flatten(1).mean(1), atol=2e-4, rtol=0)
    torch.testing.assert_close(ours, piq.ssim(others, frames, downsample=False, reduction="none"), atol=2e-4, rtol=0)


def test_ssim_in_uniform_windows_equals_scikit_image(frames: Tensor, others: Tensor) -> None:
    ours = image.uniform_ssim(frames, others, window=7, peak=1)
    for index in range(2):
        a, b = (batch[index].permute(1, 2, 0).double().numpy() for batch in (frames, others))
        assert float(ours[index]) == pytest.approx(metrics.structural_similarity(a, b, data_range=1, channel_axis=2), abs=1e-9)


def test_discos_psnr_and_ssim_are_scikit_images_of_8_bits(frames: Tensor, others: Tensor) -> None:
    a, b = (_bytes(batch[0]) for batch in (frames, others))
    assert float(image.psnr(frames, others, disco_compat=True)[0]) == pytest.approx(metrics.peak_signal_noise_ratio(a, b), abs=1e-9)
    a, b = (image.opencv_grey(batch)[0, 0].byte().numpy() for batch in (frames, others))
    assert float(image.ssim(frames, others, disco_compat=True)[0]) == pytest.approx(metrics.structural_similarity(a, b), abs=1e-9)


def test_grey_is_pillows_within_a_level(frames: Tensor) -> None:
    theirs = np.array(Image.fromarray(_bytes(frames[0])).convert("L"), np.int64)
    assert np.abs(image.opencv_grey(frames)[0, 0].long().numpy() - theirs).max() <= 1


def test_equal_frames(frames: Tensor) -> None:
    assert image.psnr(frames, frames).tolist() == [math.inf] * 2
    assert image.psnr(frames, frames, disco_compat=True).tolist() == [100] * 2
    for disco_compat in (False, True):
        assert image.ssim(frames, frames, disco_compat=disco_compat).tolist() == pytest.approx([1, 1], abs=1e-6)
        assert image.l1(frames, frames, disco_compat=disco_compat).tolist() == [0, 0]


def test_l1_is_in_levels_and_disco_divides_by_the_pixels_again(frames: Tensor) -> None:
    darker = (frames.clamp_min(10 / 255) * 255 - 10).round() / 255
    brighter = (darker * 255 + 10).round() / 255
    assert image.l1(brighter, darker).tolist() == pytest.approx([10, 10], abs=1e-3)
    assert image.l1(brighter, darker, disco_compat=True).tolist() == pytest.approx([10 / 256**2] * 2)


def test_discos_lpips_is_the_packages_on_pictures_that_were_not_rescaled(
    perceptual: PerceptualNetwork, vgg_file: Path, frames: Tensor, others: Tensor
) -> None:
    oracle = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
    state = load_file(vgg_file)
    numbers = sorted({int(key.split(".")[1]) for key in state})
    for number, layer in zip(numbers, [m for m in oracle.net.modules() if isinstance(m, torch.nn.Conv2d)], strict=True):
        layer.weight.data, layer.bias.data = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
    a, b = frames[:, :, :96, :96], others[:, :, :96, :96]
    with torch.no_grad():
        theirs = oracle(a, b).flatten()
    ours = image.lpips(perceptual, a, b, disco_compat=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert bool((image.lpips(perceptual, a, b) > 1.1 * ours).all())


def test_resizing_as_opencv_does_is_bilinear_within_a_level(frames: Tensor) -> None:
    for size in ((256, 256), (100, 300), (511, 77)):
        theirs = torch.nn.functional.interpolate(frames, size=size, mode="bilinear", align_corners=False)
        ours = image.opencv_resize(frames, size)
        assert float((ours - theirs).abs().max()) * 255 < 1.6
        assert float((ours - theirs).mean().abs()) * 255 < 0.6
    assert torch.equal(image.opencv_resize(frames, (256, 256)), frames)


def test_pictures_smaller_than_the_window_are_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match="window of 7 pixels needs pictures of at least that size"):
        image.ssim(frames[..., :6, :], frames[..., :6, :], disco_compat=True)


def test_measures_give_one_number_per_frame_under_the_papers_names(perceptual: PerceptualNetwork, frames: Tensor, others: Tensor) -> None:
    made = [make(disco_compat=compat) for compat in (False, True) for make in (image.psnr_measure, image.ssim_measure, image.l1_measure)]
    made += [image.lpips_measure(perceptual, disco_compat=compat) for compat in (False, True)]
    assert [m.name for m in made[:3]] + [made[6].name] == ["PSNR", "SSIM", "L1", "LPIPS"]
    assert len({m.name for m in made}) == 8
    frames, others = frames[..., 64:128, 64:128], others[..., 64:128, 64:128]
    slightly = frames + (others - frames) / 4
    for measure in made:
        seen = [batch if measure.see is None else measure.see(batch) for batch in (frames, slightly, others)]
        near, far = (measure.compare(seen[0], batch) for batch in seen[1:])
        assert near.shape == (2,)
        assert bool((near > far).all()) == (measure.higher == "more alike")


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().byte().permute(1, 2, 0).numpy()
