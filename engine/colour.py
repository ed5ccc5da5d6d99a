"""CIE L*a*b* of sRGB pictures (IEC 61966-2-1, white D65), and how a picture changes with a* and b* alone."""

from __future__ import annotations

import torch
from torch import Tensor

Matrix = list[list[float]]
# Linear sRGB -> XYZ. White is what 1, 1, 1 becomes, so that greys have no colour at all.
_XYZ = torch.tensor(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]], dtype=torch.float64
)
_RELATIVE = _XYZ / _XYZ.sum(1, keepdim=True)
# As numbers, since tensors of the host would have to be copied to a device each time.
_TO_RELATIVE: Matrix = _RELATIVE.tolist()
_FROM_RELATIVE: Matrix = torch.linalg.inv(_RELATIVE).tolist()
_BACK: Matrix = torch.linalg.inv(_RELATIVE).T.tolist()
# Where L*a*b*'s cube root and sRGB's power begin; below they are lines.
_ROOT, _LINE = 6 / 29, 0.0031308
_DIVISORS = (500, -200)
"""Of f_X - f_Y and f_Z - f_Y, which a* and b* are multiples of."""


def rgb_to_lab(image: Tensor) -> Tensor:
    """[...,3,H,W] in [0,1] -> L* in [0,100], a* and b*, about -110 to 110."""
    linear = torch.where(image > 12.92 * _LINE, ((image.clamp_min(0.04) + 0.055) / 1.055) ** 2.4, image / 12.92)
    relative = _mixed(linear, _TO_RELATIVE)
    roots = relative.clamp_min(_ROOT**3) ** (1 / 3)
    x, y, z = torch.where(relative > _ROOT**3, roots, relative / (3 * _ROOT**2) + 4 / 29).unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -3)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """The way back. Colours that a screen does not have are outside of [0,1]: nothing is clamped."""
    return _gamma(_mixed(_cube(_roots(lab)), _FROM_RELATIVE))


def chroma_gradient(lab: Tensor, gradient: Tensor) -> Tensor:
    """From the gradient [...,3,H,W] with respect to the colours that `lab` stands for: that with respect to a* and b*, [...,2,H,W].

    With L* fixed, f_Y is, and f_X = f_Y + a*/500, f_Z = f_Y - b*/200:
    dL/da* = sum_c g_c G'(l_c) (M^-1)_cX X_n h(f_X) / 500, and so for b*, where G is sRGB's curve and h the derivative of f's inverse.
    """
    roots = _roots(lab)
    linear = _mixed(_cube(roots), _FROM_RELATIVE)
    slope = torch.where(linear > _LINE, (1.055 / 2.4) * linear.clamp_min(_LINE) ** (1 / 2.4 - 1), 12.92)
    per_root = _mixed(gradient * slope, _BACK) * torch.where(roots > _ROOT, 3 * roots.square(), 3 * _ROOT**2)
    return torch.stack([per_root[..., place, :, :] / by for place, by in zip((0, 2), _DIVISORS, strict=True)], -3)


def _roots(lab: Tensor) -> Tensor:
    """f of X, Y and Z over white's."""
    lightness, a, b = lab.unbind(-3)
    y = (lightness + 16) / 116
    return torch.stack([y + a / _DIVISORS[0], y, y + b / _DIVISORS[1]], -3)


def _cube(roots: Tensor) -> Tensor:
    return torch.where(roots > _ROOT, roots**3, 3 * _ROOT**2 * (roots - 4 / 29))


def _gamma(linear: Tensor) -> Tensor:
    return torch.where(linear > _LINE, 1.055 * linear.clamp_min(_LINE) ** (1 / 2.4) - 0.055, 12.92 * linear)


def _mixed(image: Tensor, matrix: Matrix) -> Tensor:
    first, second, third = image.unbind(-3)
    return torch.stack([a * first + b * second + c * third for a, b, c in matrix], -3)
