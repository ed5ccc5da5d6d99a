"""`python -m bench.build_workflows [NAME ...]`: draw the example workflows, or some, in ComfyUI's real page and save what it exports.

The page decides how a workflow is written down (widget order, dynamic inputs, versions), so nothing is typed in by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .browser import Frontend, frontend
from .home import PHOTO, prepare_home, save_astronaut, save_example_poses, save_voice
from .paths import BENCH, ROOT, BenchError
from .ports import PACKS
from .server import ComfyServer
from .stub_packs import write_stub_packs
from .workflow_node import Node
from .workflows_anti_i2v import WORKFLOWS as ANTI_I2V_WORKFLOWS
from .workflows_core import WORKFLOWS as CORE_WORKFLOWS
from .workflows_dormant import ATTACK_DORMANT, PROTECT_DORMANT
from .workflows_face import ATTACK_FACE
from .workflows_i2vguard import ATTACK_I2VGUARD_SVD, ATTACK_I2VGUARD_WAN
from .workflows_lab import ATTACK_LAB
from .workflows_packs import WORKFLOWS as PACK_WORKFLOWS
from .workflows_silencer import ATTACK_SILENCER, PROTECT_SILENCER

_BUILD = """async nodes => {
    const wait = () => new Promise(done => setTimeout(done, 80));
    app.graph.clear();
    const made = {};
    for (const n of nodes) {
        const node = LiteGraph.createNode(n.type);
        node.pos = n.pos;
        if (n.title) node.title = n.title;
        app.graph.add(node);
        made[n.key] = node;
        await wait();
        for (const [name, value] of Object.entries(n.widgets)) {
            const widget = node.widgets.find(w => w.name === name);
            if (!widget) throw new Error(n.type + ' has no widget ' + name);
            widget.value = value;
            widget.callback?.(value);
            await wait();
        }
        if (n.size) node.setSize(n.size);
    }
    for (const n of nodes) for (const [name, [from, output]] of Object.entries(n.links)) {
        const slot = made[n.key].inputs.findIndex(i => i.name === name);
        if (slot < 0) throw new Error(n.type + ' has no input ' + name);
        made[from].connect(output, made[n.key], slot);
        await wait();
    }
    for (const n of nodes) if (n.size) made[n.key].setSize(n.size);
}"""


NOTE = """## Protect a portrait
1. **Load Image**: your photo. It keeps its size.
2. **Protect** changes it by at most `budget` 8-bit levels so that the connected losses grow.
3. **Save Protected Image** writes pixels only: no metadata, no workflow.

Load the VAE of the model that you want protection from. The small one that comes with Stillguard is for trying things out and \
protects nobody. The figure at the bottom right shows what that VAE makes of the photo before and after."""

NOTE_FIRST_TRY = """## First try
Needs nothing but Stillguard. Choose a photo and press Run.

For less visible changes take the workflow *protect_portrait*: it has an LPIPS Penalty, which needs a VGG16 file. \
For protection from a model that people use, load that model's VAE: the small one that comes with Stillguard protects nobody."""

SEEN = 320


def _start(note: str) -> list[Node]:
    return [
        Node("note", "MarkdownNote", (20, 40), (380, 300), widgets={"text": note}),
        Node("load", "LoadImage", (20, 400), (380, 420), widgets={"image": "astronaut.png"}),
        Node("vae", "VAELoader", (20, 880), (380, 60), widgets={"vae_name": "stillguard_lab_vae.safetensors"}),
        Node("latent", "StillguardVAELatentLoss", (440, 40), (340, 110), links={"vae": ("vae", 0)}),
    ]


def _protect_and_save(loss: tuple[str, int]) -> list[Node]:
    widgets = {"steps": 50, "seed": 2024, "control_after_generate": "fixed", "working_size": SEEN}
    saving = {"images": ("protect", 0), "clean": ("load", 0), "budget": ("protect", 2)}
    return [
        Node("protect", "StillguardProtect", (820, 40), (460, 620), widgets=widgets, links={"image": ("load", 0), "loss": loss}),
        Node("save", "StillguardSaveProtectedImage", (1320, 40), (360, 480), title="Protected picture", links=saving),
    ]


def _shown(key: str, title: str, file: str, position: tuple[int, int], source: tuple[str, int]) -> Node:
    prefix = {"filename_prefix": f"stillguard/{file}"}
    return Node(key, "StillguardSaveProtectedImage", position, (340, 480), title=title, widgets=prefix, links={"images": source})


def _rebuilt(name: str, source: tuple[str, int], top: int) -> list[Node]:
    """The picture at the size that models see, beside what the VAE makes of it."""
    scaling = {"upscale_method": "area", "largest_size": SEEN}
    small, latent, rebuilt = f"{name}_small", f"{name}_latent", f"{name}_rebuilt"
    title = f"As a model sees it: {name}"
    return [
        Node(small, "ImageScaleToMaxDimension", (440, top), (340, 90), title=title, widgets=scaling, links={"image": source}),
        Node(latent, "VAEEncode", (820, top), (220, 60), links={"pixels": (small, 0), "vae": ("vae", 0)}),
        Node(rebuilt, "VAEDecode", (1060, top), (220, 60), links={"samples": (latent, 0), "vae": ("vae", 0)}),
        _stitch(f"{name}_pair", "right", (820, top + 110), (small, 0), (rebuilt, 0)),
    ]


def _stitch(key: str, direction: str, position: tuple[int, int], first: tuple[str, int], second: tuple[str, int]) -> Node:
    return Node(key, "ImageStitch", position, (380, 160), widgets={"direction": direction}, links={"image1": first, "image2": second})


PROTECT_PORTRAIT = [
    *_start(NOTE),
    Node("lpips", "StillguardLPIPSPenalty", (440, 210), (340, 130), widgets={"weight": 10.0}),
    Node(
        "combine",
        "StillguardCombineLosses",
        (440, 400),
        (340, 90),
        links={"losses.loss0": ("latent", 0), "losses.loss1": ("lpips", 0)},
    ),
    *_protect_and_save(("combine", 0)),
    Node(
        "visibility",
        "StillguardPerturbationVisibility",
        (1320, 580),
        (360, 100),
        widgets={"lpips_backbone": "lpips_vgg16.safetensors"},
        links={"clean": ("load", 0), "protected": ("protect", 0)},
    ),
    Node("numbers", "PreviewAny", (1320, 790), (360, 180), links={"source": ("visibility", 0)}),
    *_rebuilt("clean", ("load", 0), 720),
    *_rebuilt("protected", ("protect", 0), 1040),
    _stitch("figure", "down", (1320, 1020), ("clean_pair", 0), ("protected_pair", 0)),
    _shown("perturbation", "Amplified perturbation", "perturbation", (1720, 40), ("protect", 1)),
    _shown("reconstruction", "Before and after reconstruction", "reconstruction", (1720, 580), ("figure", 0)),
]

PROTECT_FIRST_TRY = [
    *_start(NOTE_FIRST_TRY),
    *_protect_and_save(("latent", 0)),
    _shown("perturbation", "Amplified perturbation", "perturbation", (1720, 40), ("protect", 1)),
]

WORKFLOWS = {
    "protect_portrait": PROTECT_PORTRAIT,
    "protect_first_try": PROTECT_FIRST_TRY,
    "protect_dormant": PROTECT_DORMANT,
    "attack_dormant": ATTACK_DORMANT,
    "attack_face": ATTACK_FACE,
    "attack_lab": ATTACK_LAB,
    "attack_i2vguard_svd": ATTACK_I2VGUARD_SVD,
    "attack_i2vguard_wan": ATTACK_I2VGUARD_WAN,
    "protect_silencer": PROTECT_SILENCER,
    "attack_silencer": ATTACK_SILENCER,
    **ANTI_I2V_WORKFLOWS,
    **CORE_WORKFLOWS,
    **PACK_WORKFLOWS,
}
REPOSITORIES = {name: pack.repository for pack in PACKS for name in pack.nodes}


def build(page: Frontend, nodes: list[Node]) -> dict[str, Any]:
    """The UI workflow that the page exports for these nodes."""
    page.page.evaluate(_BUILD, [vars(node) for node in nodes])
    page.fit_view()  # the view is saved with the workflow
    workflow: dict[str, Any] = page.page.evaluate("async () => (await app.graphToPrompt()).workflow")
    for node in workflow["nodes"]:
        if node["type"] in REPOSITORIES:
            node["properties"]["aux_id"] = REPOSITORIES[node["type"]]  # where a node is missing, the page names its pack by this
    return workflow


def server_with_packs() -> ComfyServer:
    """A ComfyUI of its own with stand-ins for the third-party packs: they must not stay in the one that a developer opens."""
    base = BENCH / "packs"
    save_astronaut(base / "input" / PHOTO)
    save_example_poses(base / "input")
    save_voice(base / "input" / "voice.wav")
    return ComfyServer(base, packs=write_stub_packs(base / "stubs"))


def main() -> None:
    names = sys.argv[1:] or list(WORKFLOWS)
    if unknown := sorted(set(names) - WORKFLOWS.keys()):
        raise BenchError(f"There is no workflow {', '.join(unknown)}; choose of {', '.join(WORKFLOWS)}.")
    for start, group in ((lambda: ComfyServer(prepare_home()), WORKFLOWS.keys() - PACK_WORKFLOWS), (server_with_packs, PACK_WORKFLOWS)):
        if chosen := [name for name in names if name in group]:
            with start() as server:
                _save(server, chosen)


def _save(server: ComfyServer, names: list[str]) -> None:
    for name in names:
        # A page of its own for each: the page remembers widgets by node number, and hands them on to the next graph.
        with frontend(server.url) as page:
            page.wait_for_node_type("StillguardProtect")
            file: Path = ROOT / "workflows" / f"{name}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(build(page, WORKFLOWS[name]), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            page.load_workflow(file)
            page.fit_view()
            print(file, page.screenshot(server.base / f"{name}.png"))


if __name__ == "__main__":
    main()
