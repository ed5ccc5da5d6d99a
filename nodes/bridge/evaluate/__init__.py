"""Measures' sources: videos, face networks, visibility."""
