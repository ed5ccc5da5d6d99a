"""What is optimised, and how it becomes a picture: one space a file."""

from .chroma import Chroma
from .l2 import RGBL2
from .latent import Latent
from .low_frequency import LowFrequency
from .rgb import RGB
from .space import Alternating, Space

__all__ = ["RGB", "RGBL2", "Alternating", "Chroma", "Latent", "LowFrequency", "Space"]
