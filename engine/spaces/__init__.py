"""What is optimised, and how it becomes a picture: one space a file."""

from .l2 import RGBL2
from .latent import Latent
from .rgb import RGB
from .space import Alternating, Space

__all__ = ["RGB", "RGBL2", "Alternating", "Latent", "Space"]
