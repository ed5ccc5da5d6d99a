"""What an attacker does, with ComfyUI around it."""
