"""Stillguard: protect photographs of people from image-to-video models, and attack your own protected pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI. Imported here, so that `import stillguard.engine` needs no ComfyUI."""
    from .nodes import StillguardExtension
    from .nodes.model_files import register_model_folders

    register_model_folders()
    return StillguardExtension()
