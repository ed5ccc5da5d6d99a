"""LPIPS (Zhang et al. 2018): the network and linear heads of the `lpips` package, backbone weights from the user's file."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..compute.half import with_scaled_gradient
from ..packages import needed
from ..weights.reading import read_weights

# Convolutions of torchvision's VGG16 `features`, in the five groups that the lpips package cuts it into.
_VGG16_SLICES = {"slice1": (0, 2), "slice2": (5, 7), "slice3": (10, 12, 14), "slice4": (17, 19, 21), "slice5": (24, 26, 28)}

_WIDTHS = (64, 128, 256, 512, 512)


class PerceptualNetwork(nn.Module):
    """LPIPS over a backbone, frozen, in eval mode.

    Splits lpips's forward pass in two, so that the activations of the clean picture are computed once per run.
    """

    def __init__(self, backbone: nn.Module, heads: Iterable[nn.Module]) -> None:
        """backbone: scaled picture -> feature maps; heads: the linear layer of each map, [B,C,h,w] -> [B,1,h,w].

        The backbone may be in half precision; activations and distances are in fp32 all the same.
        """
        super().__init__()
        # Imported here: lpips imports torchvision, which not everyone who uses the engine has.
        with needed("lpips"):
            import lpips

        self._backbone, self._heads, self._scaling = backbone, nn.ModuleList(heads), lpips.ScalingLayer()
        self.eval().requires_grad_(False)

    def activations(self, image: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] in [0,1], sides of 16 or more -> channel-normalised feature maps, five of them with VGG16."""
        # Through __call__: in ComfyUI, a pre-hook on it brings the network to its device.
        maps: tuple[Tensor, ...] = self(image)
        return maps

    def distance(self, first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> Tensor:
        """LPIPS of two lists of activations, [B]."""
        per_layer = [head((a - b) ** 2).mean(dim=(1, 2, 3)) for head, a, b in zip(self._heads, first, second, strict=True)]
        return torch.stack(per_layer).sum(0)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """LPIPS of two pictures [B,3,H,W] in [0,1], [B]; of one alone its activations."""
        if second is not None:
            return self.distance(self.activations(first), self.activations(second))
        half = next((weight.dtype for weight in self._backbone.parameters() if weight.dtype in (torch.float16, torch.bfloat16)), None)

        def run(image: Tensor) -> tuple[Tensor, ...]:
            scaled: Tensor = self._scaling(image * 2 - 1)
            scaled = scaled if half is None else scaled.to(half)
            # The faster layout for convolutions. Not on the CPU, where it is faster too and rounds differently.
            return tuple(self._backbone(scaled.to(memory_format=torch.channels_last) if scaled.is_cuda else scaled))

        maps = with_scaled_gradient(run, first, network=self) if half == torch.float16 else run(first)
        # vector_norm has gradient 0 where all channels are 0; the package's square root of a sum has NaN there.
        maps = tuple(m.float() for m in maps) if half else maps
        return tuple(m / (torch.linalg.vector_norm(m, dim=1, keepdim=True) + 1e-10) for m in maps)


def vgg16_network(state: dict[str, Tensor], *, dtype: torch.dtype = torch.float32) -> PerceptualNetwork:
    """LPIPS from a VGG16 state dict in torchvision's names (`features.0.weight` ...) and the package's own linear heads.

    dtype: of the backbone. Raises KeyError with the first name that is missing.
    """
    with needed("lpips"):
        import lpips

    with warnings.catch_warnings(), torch.device("meta"):
        # lpips calls torchvision by names that were renamed long ago; nothing that a user could mend.
        warnings.simplefilter("ignore", UserWarning)
        # On the meta device, so that no random weights are drawn for a network that gets others at once.
        backbone = lpips.pretrained_networks.vgg16(pretrained=False, requires_grad=False)
        heads = nn.ModuleList(lpips.NetLinLayer(width, use_dropout=True) for width in _WIDTHS)
    layers = [(part, index, kind) for part, indices in _VGG16_SLICES.items() for index in indices for kind in ("weight", "bias")]
    backbone.load_state_dict(
        {f"{part}.{index}.{kind}": state[f"features.{index}.{kind}"].to(dtype) for part, index, kind in layers}, assign=True
    )
    trained = torch.load(Path(lpips.__file__).parent / "weights" / "v0.1" / "vgg.pth", map_location="cpu", weights_only=True)
    heads.load_state_dict({key.removeprefix("lin"): value for key, value in trained.items()}, assign=True)
    return PerceptualNetwork(backbone, heads)


def load_perceptual_network(path: Path, *, dtype: torch.dtype = torch.float32) -> PerceptualNetwork:
    """Read a VGG16 file: safetensors, or a PyTorch file such as torchvision's vgg16-397923af.pth (read without unpickling code).

    dtype: of the backbone. Raises ValueError when a tensor is missing.
    """
    state = read_weights(path)
    try:
        return vgg16_network(state, dtype=dtype)
    except KeyError as missing:
        raise ValueError(f"{path.name} is not a VGG16 file in torchvision's layout: it has no tensor {missing}.") from missing
