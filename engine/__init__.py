"""Stillguard's engine: protection as constrained ascent on what surrogates see. Pure torch, knows no ComfyUI.

Pictures are float tensors [B,C,H,W] in [0,1] with C = 1, 3 or 4 (the fourth channel is alpha and is never changed).
Budgets and step sizes are in 8-bit levels.

`attack.protect` is the loop, once. A method is what it is given: losses (`objective.Loss`), which ask an `Observation` for what surrogates
see and may let these learn between steps (`learning.Learns`); a `spaces.Space`, or several in `Alternating`, which says what is
optimised and how it becomes a picture, with networks if need be; a rule of `update`; and `EoT`. Frozen surrogates, one space and constant
steps pay for nothing of the rest.

A *step* is one update of the picture. A *look* is one time that losses see it: a step has as many as EoT has samples, each with a
transformation and random numbers of its own.
"""

from .attack import Step, protect
from .objective import Objective, Term
from .observation import Observation, WorkingSize
from .spaces import RGB, RGBL2, Alternating, Chroma, Latent, LowFrequency
from .transforms import EoT
from .update import Adam, AdamW, MomentumSign, Normalised, Sign

__all__ = [
    "RGB",
    "RGBL2",
    "Adam",
    "AdamW",
    "Alternating",
    "Chroma",
    "EoT",
    "Latent",
    "LowFrequency",
    "MomentumSign",
    "Normalised",
    "Objective",
    "Observation",
    "Sign",
    "Step",
    "Term",
    "WorkingSize",
    "protect",
]
