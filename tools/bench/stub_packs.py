"""Stand-ins for the third-party packs: folders that ComfyUI loads as node packs, with the ports of `ports.py` and no models.

They prove that a workflow's links and widgets fit those ports, and nothing about the packs' own code.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from .ports import PACKS

CODE = '''"""A stand-in with the ports of {repository}."""

import json
from pathlib import Path

import torch

FRAMES = 5
STATE = "picture of the stand-in"


def picture_in(values):
    """The first picture among them: a tensor, or what another stand-in handed on."""
    for value in values:
        if isinstance(value, torch.Tensor) and value.ndim == 4:
            return value
        if isinstance(value, dict) and value.get(STATE) is not None:
            return value[STATE]


def moving(picture):
    """A picture becomes a video that darkens; a video stays."""
    if len(picture) > 1:
        return picture
    return picture * torch.linspace(1.0, 0.9, FRAMES)[:, None, None, None]


def made(kind, picture, inputs):
    given = next((value for name, (of, value) in inputs.items() if of == kind), None)
    if kind == "IMAGE":
        return moving(picture)
    if kind == "FLOAT":
        return 8.0
    if kind in ("MODEL", "CLIP", "AUDIO"):
        return given
    return {{STATE: picture, "samples": torch.zeros(1, 4, 8, 8)}}


def node(name, ports):
    kinds = {{key: spec if isinstance(spec, str) else spec[0] for group in ("required", "optional") for key, spec in ports[group].items()}}
    outputs = ports["outputs"]

    def run(self, **inputs):
        ordered = {{key: (kinds[key], inputs[key]) for key in kinds if key in inputs}}
        picture = picture_in(value for _, value in ordered.values())
        return tuple(made(kind, picture, ordered) for kind in outputs.values())

    def input_types(cls):
        return {{group: {{key: (spec,) if isinstance(spec, str) else tuple(spec) for key, spec in ports[group].items()}}
                for group in ("required", "optional")}}

    return type(name, (), {{
        "INPUT_TYPES": classmethod(input_types), "RETURN_TYPES": tuple(outputs.values()), "RETURN_NAMES": tuple(outputs),
        "FUNCTION": "run", "CATEGORY": "stand-ins", "OUTPUT_NODE": ports["shows"], "run": run,
    }})


PORTS = json.loads(Path(__file__).with_name("ports.json").read_text(encoding="utf-8"))
NODE_CLASS_MAPPINGS = {{name: node(name, ports) for name, ports in PORTS.items()}}
'''


def write_stub_packs(folder: Path) -> list[Path]:
    """One pack below the folder for each of PACKS, named as its repository."""
    made = []
    for pack in PACKS:
        home = folder / pack.repository.rpartition("/")[2]
        home.mkdir(parents=True, exist_ok=True)
        ports = {name: asdict(ports) for name, ports in pack.nodes.items()}
        (home / "ports.json").write_text(json.dumps(ports, indent=1), encoding="utf-8")
        (home / "__init__.py").write_text(CODE.format(repository=pack.repository), encoding="utf-8")
        made.append(home)
    return made
