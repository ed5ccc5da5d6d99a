"""Stillguard: protect photographs of people from image-to-video models, and attack your own protected pictures."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036  # ComfyUI itself still runs there
    raise ImportError(f"Stillguard needs Python 3.11 or newer, and this is {sys.version.split()[0]}: run ComfyUI with a newer Python.")

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI. Imported here, so that `import stillguard.engine` needs no ComfyUI."""
    from .nodes import StillguardExtension
    from .nodes.bridge.model_files import register_model_folders

    register_model_folders()
    return StillguardExtension()
