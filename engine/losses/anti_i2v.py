"""Anti-I2V (CVPR 2026, arXiv 2603.24570) and Velocity-Min (BadWorld, arXiv 2606.16519): losses on what a video model makes of a picture.

The papers' code is not public. What is said here of layers, scales and pictures that they leave open is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..draws import stream
from ..observation import Features, Observation
from ..picture import resize
from ..surrogates.denoiser import Measure, Tap
from ..surrogates.video_setup import VideoSetup

# Similarities between more places than this, squared, would not fit beside a model.
_SIDE = 32


class StagedEncoder(Protocol):
    """A VAE's encoder whose insides can be read."""

    def stages(self, image: Tensor, /) -> Features:
        """Image [B,3,H,W] in [0,1] -> what it has last at each resolution, [B,C,...,h,w]."""
        ...


def layers(count: int, *, unet: bool = False) -> tuple[int, tuple[int, int, int]]:
    """Of as many blocks, from 0: the one whose features mean nothing yet, and the last three, by the paper's rule for transformers.

    unet: blocks of a UNet in the order in which they run; the third is the paper's only by analogy. Raises ValueError for fewer than 8.
    """
    if count < 8:
        raise ValueError(
            f"This model has {count} blocks, and the paper's rule, the shallow block 3 against the last three, needs 8 or more: "
            "write the blocks in `layers` by hand, such as 0, 1."
        )
    return (2 if unet else 3), (count - 3, count - 2, count - 1)


@dataclass(frozen=True, eq=False)
class RepresentationCollapse:
    """L_IRC: mean_j |f_j - f_i|^2 between the outputs of deep blocks j and of a shallow one i, to be minimised.

    Each block's output is divided by its root mean square under the clean picture at the same noise, since otherwise late blocks, whose
    numbers are larger, decide alone. Where two blocks differ in size, as in UNets, their similarities between places are compared: cosines
    of features averaged over the smaller grid of the two, or 32x32 places. stop_gradient: f_i stays where it is.
    """

    setup: VideoSetup
    shallow: int
    deep: tuple[int, ...]
    stop_gradient: bool = False

    def __post_init__(self) -> None:
        self.setup.listen(self.taps, clean=False)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("map", block) for block in (self.shallow, *self.deep))

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        sizes = self.setup.elsewhere(clean, adversarial, _measured(self.taps, [_size] * len(self.taps)), key=("sizes", id(self)))
        read = self.setup.inside(clean, adversarial, self.taps)
        shallow, *deep = (_ratio(feature.float(), size) for feature, size in zip(read, sizes, strict=True))
        if self.stop_gradient:
            shallow = shallow.detach()
        return torch.stack([_apart(feature, shallow) for feature in deep]).mean()


@dataclass(frozen=True, eq=False)
class RepresentationAnchor:
    """L_IRA: mean_m |f_m(x) - f_m(psi)|^2 / |f_m(x_clean) - f_m(psi)|^2 over the model's blocks and the VAE encoder's stages, minimised.

    psi: an unrelated picture [1,3,H,W] in [0,1], shown at the size, noise and level of the clean one; None stands for `landscape`. The
    paper adds the distances up; divided by those of the clean picture every layer counts alike. vae: None leaves its stages out.
    """

    setup: VideoSetup
    blocks: tuple[int, ...]
    vae: StagedEncoder | None = None
    picture: Tensor | None = None

    def __post_init__(self) -> None:
        self.setup.listen(self.taps, clean=False, measured=self._measures)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return tuple(Tap("output", block, of=id(self)) for block in self.blocks)

    @property
    def surrogates(self) -> tuple[object, ...]:
        return (*self.setup.surrogates, *(() if self.vae is None else (self.vae,)))

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        distances = [*self._stages(clean, adversarial), *self._blocks(clean, adversarial)]
        return torch.stack(distances).mean()

    def _blocks(self, clean: Observation, adversarial: Observation) -> Features:
        taps = _measured(self.taps, self._measures(clean, adversarial))
        firsts = self.setup.elsewhere(clean, adversarial, taps, key=("from the anchor", id(self)))
        read = self.setup.inside(clean, adversarial, self.taps)
        return tuple(map(_ratio, read, firsts))

    def _measures(self, clean: Observation, adversarial: Observation) -> list[Measure]:
        """Each block's distance from what it gives under the unrelated picture, which is not kept for each level: outputs of all blocks are
        what a run's memory goes to."""
        taps = tuple(replace(tap, of=0) for tap in self.taps)
        asked = (clean, adversarial, taps)
        aims = self.setup.elsewhere(*asked, key=("anchor", id(self)), picture=lambda: self._unrelated(clean), lasting=False)
        return [partial(squared_distance, aim=aim) for aim in aims]

    def _stages(self, clean: Observation, adversarial: Observation) -> Features:
        vae = self.vae
        if vae is None:
            return ()
        aims = clean.features(vae, ("anchor", id(self)), lambda: vae.stages(self._unrelated(clean)))
        firsts = clean.features(vae, ("from the anchor", id(self)), lambda: _distances(vae.stages(clean.image), aims))
        read = adversarial.features(vae, "stages", lambda: vae.stages(adversarial.image))
        return tuple(map(_ratio, _distances(read, aims), firsts))

    def _unrelated(self, clean: Observation) -> Tensor:
        height, width = clean.image.shape[-2:]
        picture = landscape(height, width) if self.picture is None else self.picture
        return resize(picture.to(clean.image), (height, width))


@dataclass(frozen=True, eq=False)
class Denoising:
    """L_DM: |v(X_t) - v*|^2, the model's own training loss on the noised video of the clean picture, to be maximised."""

    setup: VideoSetup

    def __post_init__(self) -> None:
        self.setup.use_estimate()

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        model = self.setup.model
        estimate = self.setup.estimate(clean, adversarial).float()
        error = (estimate - self.setup.prior(clean)) / model.output_scale(self.setup.level(adversarial))
        return _mean_where(error.square(), model.sampled)


@dataclass(frozen=True, eq=False)
class VelocityMin:
    """|v|^2 of the video that a model begins to make of pure noise n, to be minimised: v = n - X0(n) / b, with b of `output_scale`.

    No video of the clean picture is made, and the model is not asked for the clean picture. Of a flow model v is the network's output; of
    others it is the same form with noise in the latents' scale. kind: "drift" takes n - X_still from v, the velocity to a video that shows
    the clean picture in every frame: minimised the video is led there, maximised away. setup: with FIRST_STEPS for levels and fresh noise.
    """

    setup: VideoSetup
    kind: Literal["velocity", "drift"] = "velocity"

    @property
    def surrogates(self) -> tuple[object, ...]:
        return self.setup.surrogates

    def __call__(self, clean: Observation, adversarial: Observation) -> Tensor:
        model = self.setup.model
        still = self._still(clean) if self.kind == "drift" else None
        noise, estimate = self.setup.from_noise(adversarial)
        aim = noise if still is None else still
        velocity = aim - estimate.float() / model.output_scale(self.setup.level(adversarial))
        return _mean_where(velocity.square(), model.sampled)

    def _still(self, clean: Observation) -> Tensor:
        def still() -> Features:
            return (self.setup.model.still(clean.image).float(),)

        return clean.features(self.setup.model.conditioner, ("still", id(self.setup.model)), still)[0]


def landscape(height: int, width: int) -> Tensor:
    """[1,3,H,W] in [0,1]: sky, hills and a meadow with a texture of noise, always the same."""
    down, along = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    picture = torch.stack([0.35 + 0.5 * down, 0.55 + 0.35 * down, 0.95 - 0.1 * down]).expand(3, height, width)
    hills = ((0.45, 2.3, 0.10, (0.45, 0.55, 0.60)), (0.6, 3.7, 0.07, (0.25, 0.42, 0.22)), (0.8, 1.4, 0.05, (0.38, 0.50, 0.16)))
    for top, waves, swing, colour in hills:
        ground = down > top + swing * torch.sin(2 * torch.pi * waves * along + 9 * top)
        picture = torch.where(ground, torch.tensor(colour)[:, None, None], picture)
    grain = torch.randn(1, height, width, generator=stream(0, "landscape"))
    return (picture + grain * (0.02 + 0.08 * down)).clamp(0, 1)[None]


def squared_distance(features: Tensor, aim: Tensor) -> Tensor:
    """|features - aim|^2, a sum in fp32, with a gradient for the features: a mean's would be too small for half precision."""
    distance: Callable[[Tensor, Tensor], Tensor] = _SquaredDistance.apply
    return distance(features, aim)


class _SquaredDistance(torch.autograd.Function):
    """Keeps both as they are, the features no more than the next block does; differences in fp32 would be another two of each."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, aim: Tensor) -> Tensor:
        ctx.save_for_backward(features, aim)
        return (features.float() - aim.float()).square().sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        features, aim = ctx.saved_tensors
        return (2 * gradient * (features.float() - aim.float())).to(features.dtype), None


def _measured(taps: Sequence[Tap], measures: Sequence[Measure]) -> list[Tap]:
    return [replace(tap, measure=measure) for tap, measure in zip(taps, measures, strict=True)]


def _size(features: Tensor) -> Tensor:
    return features.float().square().mean().sqrt()


def _distances(features: Features, aims: Features) -> Features:
    return tuple(F.mse_loss(feature.float(), aim.float()) for feature, aim in zip(features, aims, strict=True))


def _ratio(value: Tensor, unit: Tensor) -> Tensor:
    """A layer that is zero whatever the picture stays zero."""
    return value / unit.clamp_min(torch.finfo(unit.dtype).tiny)


def _apart(deep: Tensor, shallow: Tensor) -> Tensor:
    """Of maps [...,h,w,C] of one size themselves, of others their similarities."""
    if deep.shape == shallow.shape:
        return F.mse_loss(deep, shallow)
    (tall, wide), (tall_too, wide_too) = deep.shape[-3:-1], shallow.shape[-3:-1]
    sides = min(tall, tall_too, _SIDE), min(wide, wide_too, _SIDE)
    return F.mse_loss(_similarities(deep, sides), _similarities(shallow, sides))


def _similarities(features: Tensor, sides: tuple[int, int]) -> Tensor:
    """[...,h,w,C] -> cosines between the places of that grid [N,T,T]."""
    pooled = F.adaptive_avg_pool2d(features.flatten(0, -4).movedim(-1, 1), sides)
    directions = F.normalize(pooled.flatten(2), dim=1)
    return directions.mT @ directions


def _mean_where(values: Tensor, sampled: Tensor | None) -> Tensor:
    """Over the places that the model makes: at the others the estimate is the picture itself."""
    if sampled is None:
        return values.mean()
    where = sampled.to(values).expand_as(values)
    return (values * where).sum() / where.sum()
