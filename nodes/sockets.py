"""The pack's own socket types."""

from __future__ import annotations

from comfy_api.latest import io

LossSocket = io.Custom("STILLGUARD_LOSS")
SpaceSocket = io.Custom("STILLGUARD_SPACE")
EoTSocket = io.Custom("STILLGUARD_EOT")
ReferenceNetSocket = io.Custom("STILLGUARD_REFERENCE_NET")
PoseAnimatorSocket = io.Custom("STILLGUARD_POSE_ANIMATOR")
FaceAnimatorSocket = io.Custom("STILLGUARD_FACE_ANIMATOR")
TalkingHeadSocket = io.Custom("STILLGUARD_TALKING_HEAD")
FramingSocket = io.Custom("STILLGUARD_FRAMING")
ADMSocket = io.Custom("STILLGUARD_ADM")
I2VSurrogateSocket = io.Custom("STILLGUARD_I2V_SURROGATE")
DiffusionSurrogateSocket = io.Custom("STILLGUARD_DIFFUSION_SURROGATE")
ComparisonSocket = io.Custom("STILLGUARD_COMPARISON")
