"""The ComfyUI face of the pack: nodes declare, check and delegate."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .adm import LoadADM
from .animators import AnimatePose, LoadPoseAnimator, LoadReferenceNet
from .baselines import RandomNoise
from .check_copy import CheckCopy
from .compare import CompareVideos
from .dormant import Dormant
from .eot import EoTNode
from .evaluate import PerturbationVisibility
from .i2v import I2VSurrogate
from .i2vguard import I2VGuard
from .image_encoders import LoadImageEncoder
from .inputs import checked
from .lab_victim import AnimateLabVictim
from .losses_dormant import CLIPSemanticLoss, FrameIncoherenceLoss, LPIPSPenalty, ReferenceNetFeatureLoss, VAELatentLoss
from .losses_i2vguard import ContrastiveFramesLoss, L2Penalty, TargetLatentLoss, TemporalAttentionLoss
from .protect import CombineLosses, Protect
from .purify import PurifyDiffShortcut, PurifyImpress, PurifyNoisyUpscaling
from .purify_diffusion import PurifyDDSPure, PurifyDiffPure, PurifyGrIDPure
from .report import ProtectionReport
from .save import SaveProtectedImage
from .transform import TransformImage
from .victims import InstalledVictims

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadReferenceNet,
    LoadPoseAnimator,
    LoadImageEncoder,
    I2VSurrogate,
    VAELatentLoss,
    CLIPSemanticLoss,
    ReferenceNetFeatureLoss,
    FrameIncoherenceLoss,
    LPIPSPenalty,
    TargetLatentLoss,
    ContrastiveFramesLoss,
    TemporalAttentionLoss,
    L2Penalty,
    CombineLosses,
    EoTNode,
    Protect,
    Dormant,
    I2VGuard,
    AnimatePose,
    AnimateLabVictim,
    RandomNoise,
    CheckCopy,
    InstalledVictims,
    TransformImage,
    LoadADM,
    PurifyImpress,
    PurifyDiffPure,
    PurifyDDSPure,
    PurifyGrIDPure,
    PurifyDiffShortcut,
    PurifyNoisyUpscaling,
    PerturbationVisibility,
    CompareVideos,
    ProtectionReport,
    SaveProtectedImage,
)


class StillguardExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [checked(node) for node in NODES]
