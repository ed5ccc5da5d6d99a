"""Models that losses look through."""

from . import animators, diffusion_models, image_encoders, video_models

NODES = (*animators.NODES, *diffusion_models.NODES, *image_encoders.NODES, *video_models.NODES)
