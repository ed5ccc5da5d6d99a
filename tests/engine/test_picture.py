"""Resizing where a device lacks kernels, against PyTorch's own kernels on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stillguard.engine.losses.i2vguard import L2Penalty
from stillguard.engine.objective import Objective, Term
from stillguard.engine.observation import Observation, WorkingSize
from stillguard.engine.picture import Filter, resize, resize_by_matrices, to_levels
from stillguard.engine.purify.diffusion import dds_one_shot, diffpure
from stillguard.engine.purify.gridpure import gridpure
from stillguard.engine.spaces import RGB
from stillguard.engine.transforms import EoT
from stillguard.engine.update import Adam, MomentumSign
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIZES = [((64, 96), (32, 48)), ((65, 47), (31, 64)), ((37, 41), (80, 83)), ((96, 64), (96, 30)), ((300, 40), (17, 224)), ((5, 7), (5, 1))]


@pytest.mark.parametrize(("before", "after"), SIZES)
@pytest.mark.parametrize("by", ["bilinear", "bicubic"])
def test_matrix_products_are_the_antialiased_resize_and_its_gradient(before: tuple[int, int], after: tuple[int, int], by: Filter) -> None:
    generator = torch.Generator().manual_seed(0)
    # In double precision, since PyTorch rounds its own weights otherwise.
    picture, pull = torch.rand(2, 3, *before, generator=generator).double(), torch.randn(2, 3, *after, generator=generator).double()
    theirs, ours = (picture.clone().requires_grad_() for _ in range(2))
    expected, found = F.interpolate(theirs, size=after, mode=by, antialias=True), resize_by_matrices(ours, after, by=by)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    (expected * pull).sum().backward()
    (found * pull).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-6)
    assert torch.equal(resize(picture, after, by=by), expected)


def test_weights_that_inference_mode_made_serve_autograd() -> None:
    """Nodes run under inference mode, and weights are kept."""
    picture = torch.rand(1, 3, 21, 23)
    with torch.inference_mode():
        resize_by_matrices(picture.clone(), (11, 13))
    resize_by_matrices(picture.requires_grad_(), (11, 13)).square().sum().backward()
    assert bool(picture.grad.any())


class Apple(TorchDispatchMode):
    """Tensors on the meta device, which have shapes and no values, are taken for ones on an Apple GPU."""

    missing = ("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        assert not any(name in func.name() for name in self.missing), func.name()
        if func is torch.ops.aten._to_copy.default and args[0].is_meta and kwargs.get("device", args[0].device).type != "meta":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        out = func(*args, **kwargs)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                assert tensor.dtype != torch.float64, f"{func.name()} makes float64 on a device that has none"
        return out


def _protected(image: Tensor) -> None:
    """A step of the loop without its numbers, which only a real device gives."""
    space, working, generator = RGB(8.0), WorkingSize(longest=32), torch.Generator().manual_seed(0)
    for update in (MomentumSign(), Adam()):
        (leaf,) = space.start(image, None, generator)
        ascend = update.begin((leaf,), unit=space.unit)
        leaf = leaf.detach().requires_grad_()
        seen = Observation(working(space.render(image, None, (leaf,))), transform=EoT().draw(generator))
        Objective((Term("distance", 1.0, L2Penalty()),)).backward(Observation(working(image)), seen)
        to_levels(space.project(image, None, ascend((leaf,), (leaf.grad,)))[0])


def _purified(image: Tensor) -> None:
    def denoiser(picture: Tensor, label: Tensor) -> Tensor:
        return torch.cat([picture, picture * label.view(-1, 1, 1, 1)], dim=1)

    list(gridpure(image, lambda window: window / 2, iterations=2, window=32, truncate=True))
    list(diffpure(image, denoiser, timesteps=2))
    dds_one_shot(image, denoiser, timesteps=3)


@pytest.mark.parametrize("run", [_protected, _purified])
def test_nothing_asks_a_device_for_what_apples_gpus_lack(run: Callable[[Tensor], None]) -> None:
    with Apple():
        run(torch.rand(1, 3, 48, 40, device="meta"))
