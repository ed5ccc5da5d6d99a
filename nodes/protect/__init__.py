"""Protect, whole methods, and what belongs to them."""

from . import dormant, eot, i2vguard, protect, save

NODES = (*protect.NODES, *eot.NODES, *dormant.NODES, *i2vguard.NODES, *save.NODES)
