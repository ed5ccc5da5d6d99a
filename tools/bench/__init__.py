"""The test bench: a real ComfyUI server, a client for it, a browser and the weights that the tests and the demo need.

Nothing in here is imported by the node pack. `tools/` is on `sys.path` when this package runs.
"""
