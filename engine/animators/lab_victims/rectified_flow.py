"""What the victims have in common: rectified flows (Liu et al. 2023), conditioned on a photo and a pose."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Flow(nn.Module, ABC):
    """Velocity of x_t = (1 - t) clean + t noise, preconditioned.

    Most of the velocity at both ends is x_t itself, which a small network behind normalisation repeats badly. As Karras et al. 2022 do
    for other processes, the best linear guess from x_t (clean and noise of unit variance) is added outside, and the network
    predicts the rest, scaled to unit variance: with d = (1 - t)^2 + t^2, velocity = (2t - 1) / d x_t + predict(x_t / sqrt(d)) / sqrt(d).
    """

    def forward(self, noisy: Tensor, time: Tensor, photo: Tensor, pose: Tensor) -> Tensor:
        """noisy, photo: [B,8,h,w]; time [B] in [0,1], 1 is noise; pose [B,3,8h,8w] in [0,1] -> velocity like noisy."""
        scale = ((1 - time) ** 2 + time**2).rsqrt().view(-1, 1, 1, 1)
        guess = (2 * time - 1).view(-1, 1, 1, 1) * scale**2 * noisy
        return guess + scale * self.predict(scale * noisy, time, photo, pose)

    @abstractmethod
    def predict(self, noisy: Tensor, time: Tensor, photo: Tensor, pose: Tensor) -> Tensor:
        """As forward, of unit variance for inputs of unit variance."""
