"""What a protected picture is to do to a model, a file for each method."""

from . import anti_i2v, baselines, dormant, face, freeze, i2vguard, inpainting, silencer

NODES = (
    *anti_i2v.NODES,
    *baselines.NODES,
    *dormant.NODES,
    *face.NODES,
    *freeze.NODES,
    *i2vguard.NODES,
    *inpainting.NODES,
    *silencer.NODES,
)
