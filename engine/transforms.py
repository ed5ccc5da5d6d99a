"""Differentiable transformations of pictures [B,3,H,W] in [0,1]. EoT draws from them; the attack test applies them.

Each is a frozen value with everything random already decided, so that applying it twice gives the same picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .draws import placed
from .packages import needed
from .picture import resize

Transform = Callable[[Tensor], Tensor]
Range = tuple[float, float]


@dataclass(frozen=True)
class GaussianBlur:
    """sigma and kernel in pixels. border: outside is the picture mirrored, which must be wider than half the kernel, or its edge."""

    sigma: float
    kernel: int = 3
    border: Literal["reflect", "replicate"] = "reflect"

    def __call__(self, image: Tensor) -> Tensor:
        with needed("kornia"):
            import kornia
        kernel, sigma = (self.kernel, self.kernel), (self.sigma, self.sigma)
        blurred: Tensor = kornia.filters.gaussian_blur2d(image, kernel, sigma, border_type=self.border)
        return blurred


@dataclass(frozen=True)
class JPEG:
    """Differentiable JPEG (Reich et al. 2024) through kornia; quality 1 to 100. What a real encoder writes is purify.edits.JPEGFile."""

    quality: float

    def __call__(self, image: Tensor) -> Tensor:
        with needed("kornia"):
            import kornia
        # On the CPU: kornia checks its range on the host, for which a tensor on a GPU would synchronise twice.
        quality = torch.full((image.shape[0],), float(self.quality))
        coded: Tensor = kornia.enhance.jpeg_codec_differentiable(image.clamp(0, 1), quality)
        return coded.clamp(0, 1)


@dataclass(frozen=True)
class GaussianNoise:
    """Additive noise of standard deviation `sigma` in [0,1] units, clamped; drawn on the CPU from `seed` on every device."""

    sigma: float
    seed: int

    def __call__(self, image: Tensor) -> Tensor:
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(self.seed))
        return (image + placed(noise, image) * self.sigma).clamp(0, 1)


@dataclass(frozen=True)
class ResizeBack:
    """Resize both sides by `scale`, then back to the original size. With Pillow's filters and on the 8-bit grid: purify.edits.Resize."""

    scale: float

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return resize(resize(image, (max(1, round(height * self.scale)), max(1, round(width * self.scale)))), (height, width))


@dataclass(frozen=True)
class EoT:
    """Expectation over transformation (Athalye et al. 2018) over Dormant's five families, one drawn uniformly per sample.

    A family is left out with None (False for identity); parameters are uniform in their range, the JPEG quality an integer
    in it. Defaults are the official code's (utils/util.py). samples: gradients averaged per step.
    Raises ValueError when nothing is left to draw or a range is empty.
    """

    blur_sigma: Range | None = (0.1, 3.0)
    jpeg_quality: tuple[int, int] | None = (30, 69)
    noise_sigma: Range | None = (0.0, 0.03)
    resize_scale: Range | None = (0.5, 2.0)
    identity: bool = True
    samples: int = 1

    @classmethod
    def none(cls) -> EoT:
        """The clean channel: every draw is the identity."""
        return cls(None, None, None, None)

    def __post_init__(self) -> None:
        ranges = [r for r in (self.blur_sigma, self.jpeg_quality, self.noise_sigma, self.resize_scale) if r is not None]
        if self.samples < 1 or not (ranges or self.identity):
            raise ValueError("EoT has nothing to draw from: switch on at least one transformation and one sample.")
        if any(low > high for low, high in ranges):
            raise ValueError("An EoT range is empty: its lower end must not be above its upper end.")

    def draw(self, generator: torch.Generator) -> Transform | None:
        """One transformation with its parameters decided; None is the identity."""

        def uniform(bounds: Range) -> float:
            return bounds[0] + (bounds[1] - bounds[0]) * float(torch.rand((), generator=generator))

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        families: list[Callable[[], Transform | None]] = []
        if (sigma := self.blur_sigma) is not None:
            families.append(lambda: GaussianBlur(uniform(sigma)))
        if (quality := self.jpeg_quality) is not None:
            families.append(lambda: JPEG(integer(*quality)))
        if (noise := self.noise_sigma) is not None:
            families.append(lambda: GaussianNoise(uniform(noise), seed=integer(0, 2**31)))
        if (scale := self.resize_scale) is not None:
            families.append(lambda: ResizeBack(uniform(scale)))
        if self.identity:
            families.append(lambda: None)
        return families[integer(0, len(families) - 1)]()
