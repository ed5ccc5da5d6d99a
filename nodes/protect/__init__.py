"""Protect, whole methods, and what belongs to them."""

from . import anti_i2v, baselines, dormant, dual_space, eot, i2vguard, inpainting, latent_space, protect, save, silencer

NODES = (
    *protect.NODES,
    *latent_space.NODES,
    *dual_space.NODES,
    *eot.NODES,
    *dormant.NODES,
    *i2vguard.NODES,
    *anti_i2v.NODES,
    *baselines.NODES,
    *inpainting.NODES,
    *silencer.NODES,
    *save.NODES,
)
