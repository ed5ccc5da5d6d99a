"""Models that losses look through."""

from . import animators, diffusion_models, face_animators, image_encoders, learning, talking_heads, video_models

NODES = (
    *animators.NODES,
    *diffusion_models.NODES,
    *learning.NODES,
    *face_animators.NODES,
    *image_encoders.NODES,
    *talking_heads.NODES,
    *video_models.NODES,
)
