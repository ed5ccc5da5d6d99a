"""What every node may expect of what comes through its sockets, checked in one place before it runs."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..engine.picture import split_alpha

# What gives each kind of socket its content.
_GIVERS = {
    "IMAGE": "Load Image",
    "MASK": "Load Image (as Mask)",
    "MODEL": "Load Diffusion Model or Load Checkpoint",
    "VAE": "Load VAE",
    "AUDIO": "Load Audio",
    "AUDIO_ENCODER": "Load Audio Encoder",
    "CLIP": "Load CLIP",
    "CLIP_VISION": "Load CLIP Vision",
    "CONDITIONING": "CLIP Text Encode (Prompt)",
    "UPSCALE_MODEL": "Load Upscale Model",
}


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, whose `execute` is given sockets that hold what they promise: see `sound`."""
    declared = {one.id: one for one in node.define_schema().inputs}

    class Checked(node):  # type: ignore[misc, valid-type]
        @classmethod
        def execute(cls, **inputs: Any) -> io.NodeOutput:
            return super().execute(**{name: sound(declared[name], value) if name in declared else value for name, value in inputs.items()})

    Checked.__name__, Checked.__qualname__, Checked.__module__ = node.__name__, node.__qualname__, node.__module__
    Checked.__doc__ = node.__doc__
    return Checked


def sound(socket: io.Input, value: Any) -> Any:
    """What arrived at a socket: pictures as fp32 [B,H,W,C] with B of at least 1 and C of 1, 3 or 4, masks as fp32 [B,H,W].

    Raises ValueError, one sentence, for a socket that is connected and holds nothing, for other pictures and masks, and for a VAE of sound.
    """
    kinds = socket.get_io_type().split(",")
    if value is None and not isinstance(socket, io.WidgetInput):
        giver = " or ".join(_GIVERS.get(kind, "another node") for kind in kinds) + (", or nothing" if socket.optional else "")
        raise ValueError(f"What is connected to `{socket.id}` gives nothing, as a loader whose file lacks it does: connect {giver}.")
    if isinstance(value, Tensor) and "IMAGE" in kinds:
        _check_pictures(socket.id, value)
        # Of videos, which a measure reads a few frames at a time, there may be no room for a second copy.
        return value.float() if kinds == ["IMAGE"] else value
    if "MASK" in kinds:
        return _mask(socket.id, value)
    if "VAE" in kinds and (value.latent_dim == 1 or value.output_channels == 2):
        raise ValueError(f"The VAE at `{socket.id}` is one of sound or shapes: connect one of pictures or videos with Load VAE.")
    return value


def _check_pictures(name: str, pictures: Tensor) -> None:
    if pictures.ndim != 4:
        raise ValueError(f"`{name}` has the shape {_shape(pictures)} and pictures are [B,H,W,C]: connect a node that gives an IMAGE.")
    if not pictures.numel():
        raise ValueError(f"`{name}` holds no picture ({_shape(pictures)}): connect a node that gives at least one.")
    split_alpha(pictures.movedim(-1, 1))


def _mask(name: str, mask: Tensor) -> Tensor:
    """Masks of other nodes may lack the batch, or have the one channel of a picture at either end."""
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        mask = mask[..., 0] if mask.shape[3] == 1 else mask[:, 0]
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or not mask.numel():
        raise ValueError(
            f"`{name}` has the shape {_shape(mask)} and a mask is [B,H,W]: connect a MASK, for instance of Convert Image to Mask."
        )
    return mask.float()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "of a number"
