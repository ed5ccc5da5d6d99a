"""Core's image-to-video models as surrogates."""
