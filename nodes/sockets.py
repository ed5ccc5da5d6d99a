"""The pack's own socket types, and what travels through them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..engine.objective import Loss
    from .bridge.surrogates.residents import Surrogates

LossSocket = io.Custom("STILLGUARD_LOSS")
EoTSocket = io.Custom("STILLGUARD_EOT")
ReferenceNetSocket = io.Custom("STILLGUARD_REFERENCE_NET")
PoseAnimatorSocket = io.Custom("STILLGUARD_POSE_ANIMATOR")
ADMSocket = io.Custom("STILLGUARD_ADM")
I2VSurrogateSocket = io.Custom("STILLGUARD_I2V_SURROGATE")
ComparisonSocket = io.Custom("STILLGUARD_COMPARISON")


class LossSpec(Protocol):
    """What a loss node returns: settings and the socket objects that they speak of, immutable.

    `weight` is signed: positive is maximised. A STILLGUARD_LOSS is a tuple of these.
    `drives`: False for a penalty, which can only hold a picture back.
    `scaled`: see engine.objective.Term; left out by losses that never are.
    `one_photo`: made from one photo, as with a pose picture, so that a batch of photos cannot share it.
    """

    drives: ClassVar[bool]
    one_photo: ClassVar[bool]

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def build(self, surrogates: Surrogates) -> Loss:
        """The engine's loss over differentiable views of the sockets."""
        ...


Losses = tuple[LossSpec, ...]
