"""The autoencoder of the laboratory's victims: another layout, width and number of channels than the surrogates' one."""

from __future__ import annotations

from torch import Tensor, nn

CHANNELS = 8
_STEM, _WIDE, _NARROW = 4, 80, 64


class _Residual(nn.Sequential):
    """Two convolutions behind group normalisation, with a skip (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        half = (nn.GroupNorm(16, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        super().__init__(*half, nn.GroupNorm(16, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        change = x
        for layer in self:
            change = layer(change)
        return x + change


class VictimAutoencoder(nn.Module):
    """Image [B,3,H,W] in [0,1], H and W multiples of 8  <->  latent [B,8,H/8,W/8] of about unit variance."""

    def __init__(self) -> None:
        super().__init__()
        pixels = 3 * _STEM**2
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(_STEM),
            nn.Conv2d(pixels, _NARROW, 3, padding=1),
            *(_Residual(_NARROW) for _ in range(2)),
            nn.Conv2d(_NARROW, _WIDE, 3, stride=2, padding=1),
            *(_Residual(_WIDE) for _ in range(3)),
            nn.Conv2d(_WIDE, CHANNELS, 1),
            # Without learned scale and shift: latents have the unit variance of the noise that the victims start from.
            nn.BatchNorm2d(CHANNELS, affine=False),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, _WIDE, 3, padding=1),
            *(_Residual(_WIDE) for _ in range(3)),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(_WIDE, _NARROW, 3, padding=1),
            *(_Residual(_NARROW) for _ in range(2)),
            nn.Conv2d(_NARROW, pixels, 3, padding=1),
            nn.PixelShuffle(_STEM),
        )

    def encode(self, image: Tensor) -> Tensor:
        latent: Tensor = self.encoder(image * 2 - 1)
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        """Unclamped."""
        image: Tensor = self.decoder(latent) / 2 + 0.5
        return image
