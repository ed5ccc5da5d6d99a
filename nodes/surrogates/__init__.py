"""Models that losses look through."""

from . import animators, diffusion_models, face_animators, image_encoders, video_models

NODES = (*animators.NODES, *diffusion_models.NODES, *face_animators.NODES, *image_encoders.NODES, *video_models.NODES)
