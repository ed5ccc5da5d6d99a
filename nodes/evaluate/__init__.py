"""What a protection is worth, in numbers and in a report."""

from . import compare, layer_probe, report, visibility

NODES = (*visibility.NODES, *compare.NODES, *report.NODES, *layer_probe.NODES)
