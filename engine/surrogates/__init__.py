"""Frozen networks that we differentiate through, one architecture family a file."""
