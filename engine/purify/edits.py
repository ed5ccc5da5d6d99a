"""What platforms and people do to pictures, as the resulting file would hold it: the simplest purifiers, and not differentiable.

Each edit is a frozen value with everything random already decided. It takes [B,C,H,W] in [0,1], C = 1 or 3, reads it as 8-bit levels
and gives 8-bit levels in [0,1] back, on the same device. `str(edit)` says for a report what was done. Settings that make no sense, and
pictures too small or too large for an edit, raise ValueError, one sentence.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import PIL
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from .. import transforms
from ..conversions import on_grid, through_pillow
from ..files import WEBP_LONGEST, open_own
from ..picture import LEVELS, to_levels

SUBSAMPLINGS = ("4:2:0", "4:2:2", "4:4:4")
ROUNDINGS = ("nearest", "cut")
# libjpeg's limit.
JPEG_LONGEST = 65500


@dataclass(frozen=True)
class JPEGFile:
    """Pillow's JPEG encoder; quality 1 to 100. The differentiable one is transforms.JPEG.

    4:2:0 keeps colour at half the resolution, as encoders do by default.
    """

    quality: int
    subsampling: str = "4:2:0"

    def __post_init__(self) -> None:
        _check_quality(self.quality)
        check_name(self.subsampling, SUBSAMPLINGS)

    def __call__(self, image: Tensor) -> Tensor:
        return _encoded(image, "JPEG", JPEG_LONGEST, quality=self.quality, subsampling=self.subsampling)

    def __str__(self) -> str:
        return f"JPEG of quality {self.quality}, {self.subsampling} (Pillow {PIL.__version__})"


@dataclass(frozen=True)
class WebPFile:
    """Pillow's lossy WebP encoder; quality 1 to 100."""

    quality: int

    def __post_init__(self) -> None:
        _check_quality(self.quality)

    def __call__(self, image: Tensor) -> Tensor:
        return _encoded(image, "WEBP", WEBP_LONGEST, quality=self.quality)

    def __str__(self) -> str:
        return f"WebP of quality {self.quality} (Pillow {PIL.__version__})"


@dataclass(frozen=True)
class OpenCVBlur:
    """transforms.GaussianBlur on the 8-bit grid, with OpenCV's conventions.

    Edges are mirrored without repeating the last pixel; without `sigma` it is 0.3((kernel - 1)/2 - 1) + 0.8.
    """

    kernel: int
    sigma: float | None = None

    def __post_init__(self) -> None:
        _check_kernel(self.kernel)
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError("A Gaussian blur needs a sigma above 0: raise it, or leave it to follow from the kernel.")

    @property
    def width(self) -> float:
        """The standard deviation in pixels."""
        return 0.3 * ((self.kernel - 1) / 2 - 1) + 0.8 if self.sigma is None else self.sigma

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        if min(height, width) <= self.kernel // 2:
            raise ValueError(f"A kernel of {self.kernel} pixels is too wide for a picture of {width}x{height}: choose a smaller one.")
        return on_grid(transforms.GaussianBlur(self.width, self.kernel)(on_grid(image)))

    def __str__(self) -> str:
        return f"Gaussian blur, {self.kernel} pixels wide, sigma {self.width:g}"


@dataclass(frozen=True)
class RoundedNoise:
    """transforms.GaussianNoise on the 8-bit grid: of standard deviation `sigma` in [0,1] units, clipped and rounded."""

    sigma: float
    seed: int = 0

    def __call__(self, image: Tensor) -> Tensor:
        return on_grid(transforms.GaussianNoise(self.sigma, self.seed)(on_grid(image)))

    def __str__(self) -> str:
        return f"Gaussian noise, sigma {self.sigma:g}, seed {self.seed}"


@dataclass(frozen=True)
class SaltAndPepper:
    """A share of the pixels becomes white or black, each as often."""

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.share)

    def __call__(self, image: Tensor) -> Tensor:
        count, _, *size = image.shape
        drawn = torch.rand((count, 1, *size), generator=torch.Generator().manual_seed(self.seed)).to(image.device)
        return torch.where(drawn < self.share, (drawn < self.share / 2).to(image.dtype), on_grid(image))

    def __str__(self) -> str:
        return f"salt and pepper on {self.share:.1%} of the pixels, seed {self.seed}"


@dataclass(frozen=True)
class MedianBlur:
    """Each pixel becomes the median of the square around it, channel by channel; edges are repeated, as in OpenCV and SciPy."""

    kernel: int

    def __post_init__(self) -> None:
        _check_kernel(self.kernel)

    def __call__(self, image: Tensor) -> Tensor:
        return through_pillow(image, lambda picture: picture.filter(ImageFilter.MedianFilter(self.kernel)))

    def __str__(self) -> str:
        return f"median blur, {self.kernel} pixels wide"


@dataclass(frozen=True)
class BitSqueeze:
    """Fewer bits per channel (Xu et al. 2018): the nearest of 2^bits values from black to white, or with the low bits cut off."""

    bits: int
    rounding: str = "nearest"

    def __post_init__(self) -> None:
        check_name(self.rounding, ROUNDINGS)
        if not 1 <= self.bits <= 8:
            raise ValueError(f"A channel of a picture has 1 to 8 bits, not {self.bits}: choose one of these.")

    def __call__(self, image: Tensor) -> Tensor:
        levels = to_levels(image)
        if self.rounding == "cut":
            step = 2 ** (8 - self.bits)
            kept: Tensor = levels - levels % step
            return kept / LEVELS
        top = 2**self.bits - 1
        return on_grid((levels / LEVELS * top).round() / top)

    def __str__(self) -> str:
        return f"{self.bits} bits per channel ({'nearest value' if self.rounding == 'nearest' else 'low bits cut off'})"


@dataclass(frozen=True)
class Brightness:
    """Every level times `factor`, clipped."""

    factor: float

    def __call__(self, image: Tensor) -> Tensor:
        return through_pillow(image, lambda picture: ImageEnhance.Brightness(picture).enhance(self.factor))

    def __str__(self) -> str:
        return f"brightness times {self.factor:g}"


@dataclass(frozen=True)
class Contrast:
    """Every level's distance from the mean grey of the picture times `factor`, clipped."""

    factor: float

    def __call__(self, image: Tensor) -> Tensor:
        return through_pillow(image, lambda picture: ImageEnhance.Contrast(picture).enhance(self.factor))

    def __str__(self) -> str:
        return f"contrast times {self.factor:g}"


@dataclass(frozen=True)
class Erase:
    """A black rectangle of the picture's own proportions over `share` of its area, somewhere."""

    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_share(self.share)

    def __call__(self, image: Tensor) -> Tensor:
        sides = tuple(image.shape[-2:])
        height, width = (round(side * self.share**0.5) for side in sides)
        places = torch.rand(2, generator=torch.Generator().manual_seed(self.seed))
        top, left = (int(place * (side - length + 1)) for place, side, length in zip(places, sides, (height, width), strict=True))
        erased = on_grid(image)
        erased[..., top : top + height, left : left + width] = 0
        return erased

    def __str__(self) -> str:
        return f"{self.share:.1%} of the area black, seed {self.seed}"


def _encoded(image: Tensor, format: str, longest: int, **settings: int | str) -> Tensor:
    height, width = image.shape[-2:]
    if max(height, width) > longest:
        raise ValueError(f"A {format} file holds at most {longest} pixels a side, and the picture is {width}x{height}: make it smaller.")

    def through_file(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, format, **settings)
        return open_own(buffer.getvalue())

    return through_pillow(image, through_file)


def _check_quality(quality: int) -> None:
    if not 1 <= quality <= 100:
        raise ValueError(f"Quality goes from 1 to 100, not {quality}: choose one of these.")


def _check_kernel(kernel: int) -> None:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"A kernel {kernel} pixels wide has no middle pixel: choose an odd width such as 3, 5, 7 or 9.")


def check_share(share: float) -> None:
    """Raises ValueError for a share that leaves nothing, or is more than all."""
    if not 0 < share <= 1:
        raise ValueError(f"A share lies above 0 and is at most 1, not {share:g}: choose one of these.")


def check_name(name: str, names: tuple[str, ...]) -> None:
    """Raises ValueError, which lists the names, for another."""
    if name not in names:
        raise ValueError(f"There is no {name!r} here: choose one of {', '.join(names)}.")
