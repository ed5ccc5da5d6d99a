"""Runs of a protection."""
