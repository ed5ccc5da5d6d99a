"""What a protected picture is to do to a model, a file for each method."""

from . import dormant, i2vguard

NODES = (*dormant.NODES, *i2vguard.NODES)
