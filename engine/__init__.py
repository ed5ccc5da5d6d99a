"""Stillguard's engine: protection as constrained ascent on what frozen surrogates see. Pure torch, knows no ComfyUI.

Pictures are float tensors [B,C,H,W] in [0,1] with C = 1, 3 or 4 (the fourth channel is alpha and is never changed).
Budgets and step sizes are in 8-bit levels.
"""

from .attack import Step, protect
from .objective import Objective, Term
from .observation import Observation, WorkingSize
from .spaces import RGB, RGBL2, Turns
from .transforms import EoT
from .update import Adam, MomentumSign, Normalised, Sign

__all__ = [
    "RGB",
    "RGBL2",
    "Adam",
    "EoT",
    "MomentumSign",
    "Normalised",
    "Objective",
    "Observation",
    "Sign",
    "Step",
    "Term",
    "Turns",
    "WorkingSize",
    "protect",
]
