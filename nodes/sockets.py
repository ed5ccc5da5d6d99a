"""The pack's own socket types, and what travels through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..engine.objective import Loss
    from .bridge.surrogates import Surrogates

LossSocket = io.Custom("STILLGUARD_LOSS")
EoTSocket = io.Custom("STILLGUARD_EOT")
ReferenceNetSocket = io.Custom("STILLGUARD_REFERENCE_NET")
PoseAnimatorSocket = io.Custom("STILLGUARD_POSE_ANIMATOR")


class LossSpec(Protocol):
    """What a loss node returns: settings and the socket objects that they speak of, immutable.

    `weight` is signed: positive is maximised. A STILLGUARD_LOSS is a tuple of these.
    `drives`: False for a penalty, which can only hold a picture back.
    `edits_in_place`: its networks overwrite tensors that the backward pass needs, see in_place_edits in bridge/autograd.py.
    """

    drives: ClassVar[bool]

    @property
    def edits_in_place(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def build(self, surrogates: Surrogates) -> Loss:
        """The engine's loss over differentiable views of the sockets."""
        ...


Losses = tuple[LossSpec, ...]
