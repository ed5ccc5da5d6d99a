"""What ComfyUI's start costs, and what a broken package takes down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.comfyui import comfyui

ROOT = Path(__file__).parents[2]

# With diffusers and lpips broken, in a process of its own: the node list, a node that needs neither, and all that need one.
PROGRAM = """
import asyncio, os, sys
from bench import cpu_shim
cpu_shim.install()
sys.path.insert(0, os.getcwd())
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()

class Broken:
    tried = []

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("diffusers", "lpips"):
            self.tried.append(name)
            raise RuntimeError(f"{name} does not fit its neighbours\\nand says so at length")

sys.meta_path.insert(0, Broken())
import torch
from stillguard import comfy_entrypoint

async def nodes():
    return await (await comfy_entrypoint()).get_node_list()

names = asyncio.run(nodes())
assert len(names) > 30 and not Broken.tried, Broken.tried

from stillguard.nodes.attack.random_noise import RandomNoise
RandomNoise.execute(image=torch.full((1, 8, 8, 3), 0.5), budget=8.0, seed=0)

from lzma import open as unpacked
from safetensors.torch import load
from stillguard.engine.packages import PackageError
from stillguard.engine.purify.adm import adm
from stillguard.engine.surrogates.perceptual import load_perceptual_network, vgg16_network
from stillguard.engine.animators.pose_animator import denoiser_unet, last_timesteps, pose_guider
from stillguard.engine.surrogates.reference_net import reference_net
from stillguard.engine.animators.lab_victims.victim import LabVictim
from stillguard.engine.weights.catalogue import VICTIMS
from adm_files import small_state

def weights(name):
    return load(unpacked(os.path.join(DATA, f"{name}.safetensors.xz")).read())

for package, make in {
    "diffusers ReferenceNet": lambda: reference_net(weights("appearance_encoder"), "a file", heads=2, groups=8),
    "diffusers denoiser": lambda: denoiser_unet(weights("denoising_unet"), weights("motion_module"), ("a", "b"), heads=2, groups=8),
    "diffusers guider": lambda: pose_guider(weights("pose_guider"), "a file"),
    "diffusers schedule": last_timesteps,
    "diffusers ADM": lambda: adm(small_state(), "a file"),
    "diffusers victim": lambda: LabVictim("unet", VICTIMS),
    "lpips": lambda: vgg16_network({}),
}.items():
    try:
        make()
    except PackageError as error:
        sentence = str(error)
        assert package.split()[0] in sentence and "neighbours" in sentence and "\\n" not in sentence and sentence.endswith("."), sentence
    else:
        raise AssertionError(package)
LabVictim("transformer", VICTIMS)
print("fine")
"""


def test_no_node_waits_for_diffusers_and_a_broken_one_stops_only_those_that_need_it() -> None:
    program = PROGRAM.replace("DATA", repr(str(ROOT / "tests" / "data" / "dormant" / "weights")))
    done = subprocess.run([sys.executable, "-c", program], cwd=comfyui(), capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("fine"), done.stderr
