"""`python -m bench.build_workflows`: draw the example workflows in ComfyUI's real page and save what it exports.

The page decides how a workflow is written down (widget order, dynamic inputs, versions), so nothing is typed in by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .browser import Frontend, frontend
from .home import prepare_home
from .paths import ROOT
from .server import ComfyServer

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
    return (await app.graphToPrompt()).workflow;
}"""


@dataclass(frozen=True)
class Node:
    """One node to draw. links: input name -> (key of the node it comes from, output number)."""

    key: str
    type: str
    pos: tuple[int, int]
    size: tuple[int, int] | None = None
    title: str | None = None
    widgets: dict[str, Any] = field(default_factory=dict)
    links: dict[str, tuple[str, int]] = field(default_factory=dict)


NOTE = """## Protect a portrait
1. **Load Image**: your photo. It keeps its size.
2. **Protect** changes it by at most `budget` 8-bit levels so that the connected losses grow. More `steps` protect more.
3. **Save Protected Image** writes pixels only: no metadata, no workflow.

Load the VAE of the model that you want protection from. The small one that comes with Stillguard is for trying things out and \
protects nobody. The figure at the bottom right shows what that VAE makes of the photo before and after."""

SEEN = 384

PROTECT_PORTRAIT = [
    Node("note", "MarkdownNote", (20, 40), (380, 300), widgets={"text": NOTE}),
    Node("load", "LoadImage", (20, 400), (380, 420), widgets={"image": "astronaut.png"}),
    Node("vae", "VAELoader", (20, 880), (380, 60), widgets={"vae_name": "stillguard_lab_vae.safetensors"}),
    Node("latent", "StillguardVAELatentLoss", (440, 40), (340, 110), links={"vae": ("vae", 0)}),
    Node("lpips", "StillguardLPIPSPenalty", (440, 210), (340, 130), widgets={"weight": 3.0}),
    Node(
        "combine",
        "StillguardCombineLosses",
        (440, 400),
        (340, 90),
        links={"losses.loss0": ("latent", 0), "losses.loss1": ("lpips", 0)},
    ),
    Node(
        "protect",
        "StillguardProtect",
        (820, 40),
        (380, 620),
        widgets={"steps": 50, "seed": 2024, "control_after_generate": "fixed", "working_size": SEEN},
        links={"image": ("load", 0), "loss": ("combine", 0)},
    ),
    Node("save", "StillguardSaveProtectedImage", (1240, 40), (360, 480), links={"images": ("protect", 0), "clean": ("load", 0)}),
    Node(
        "perturbation",
        "SaveImage",
        (1640, 40),
        (340, 480),
        title="Amplified perturbation",
        widgets={"filename_prefix": "stillguard/perturbation"},
        links={"images": ("protect", 1)},
    ),
    Node(
        "visibility",
        "StillguardPerturbationVisibility",
        (1240, 580),
        (360, 200),
        widgets={"lpips_backbone": "lpips_vgg16.safetensors"},
        links={"clean": ("load", 0), "protected": ("protect", 0)},
    ),
    *(
        node
        for index, (name, source) in enumerate((("clean", ("load", 0)), ("protected", ("protect", 0))))
        for node in (
            Node(
                f"{name}_small",
                "ImageScaleToMaxDimension",
                (440, 720 + 320 * index),
                (340, 90),
                title=f"As a model sees it: {name}",
                widgets={"upscale_method": "area", "largest_size": SEEN},
                links={"image": source},
            ),
            Node(
                f"{name}_latent",
                "VAEEncode",
                (820, 720 + 320 * index),
                (180, 60),
                links={"pixels": (f"{name}_small", 0), "vae": ("vae", 0)},
            ),
            Node(
                f"{name}_rebuilt",
                "VAEDecode",
                (1020, 720 + 320 * index),
                (180, 60),
                links={"samples": (f"{name}_latent", 0), "vae": ("vae", 0)},
            ),
            Node(
                f"{name}_pair",
                "ImageStitch",
                (820, 830 + 320 * index),
                (380, 160),
                widgets={"direction": "right"},
                links={"image1": (f"{name}_small", 0), "image2": (f"{name}_rebuilt", 0)},
            ),
        )
    ),
    Node(
        "figure",
        "ImageStitch",
        (1240, 840),
        (360, 160),
        widgets={"direction": "down"},
        links={"image1": ("clean_pair", 0), "image2": ("protected_pair", 0)},
    ),
    Node(
        "reconstruction",
        "SaveImage",
        (1640, 580),
        (340, 480),
        title="Before and after reconstruction",
        widgets={"filename_prefix": "stillguard/reconstruction"},
        links={"images": ("figure", 0)},
    ),
]

WORKFLOWS = {"protect_portrait": PROTECT_PORTRAIT}


def build(page: Frontend, nodes: list[Node]) -> dict[str, Any]:
    """The UI workflow that the page exports for these nodes."""
    workflow: dict[str, Any] = page.page.evaluate(_BUILD, [vars(node) for node in nodes])
    return workflow


def main() -> None:
    with ComfyServer(prepare_home()) as server, frontend(server.url) as page:
        page.wait_for_node_type("StillguardProtect")
        for name, nodes in WORKFLOWS.items():
            file: Path = ROOT / "workflows" / f"{name}.json"
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(build(page, nodes), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            page.load_workflow(file)
            page.fit_view()
            print(file, page.screenshot(server.base / f"{name}.png"))


if __name__ == "__main__":
    main()
