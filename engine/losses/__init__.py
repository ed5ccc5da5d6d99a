"""Losses by method: one function or small class per equation."""
