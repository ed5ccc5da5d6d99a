"""The audio-driven animator: Hallo (Xu et al. 2024), which Silencer attacks."""
