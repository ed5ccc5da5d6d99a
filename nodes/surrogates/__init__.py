"""Models that losses look through."""

from . import animators, image_encoders, video_models

NODES = (*animators.NODES, *image_encoders.NODES, *video_models.NODES)
