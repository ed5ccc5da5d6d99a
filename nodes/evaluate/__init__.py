"""What a protection is worth, in numbers and in a report."""

from . import compare, report, visibility

NODES = (*visibility.NODES, *compare.NODES, *report.NODES)
