"""`python -m goldens.part SOURCE TARGET` in tests/: the part of a Dormant set that is small enough to be committed, as .xz files.

It leaves out the VAE's decoder, the largest two ReferenceNets and the recorded run; the denoiser is there with its recorded bank.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
from pathlib import Path

from safetensors.torch import load_file, save

WHOLE = (
    *(f"weights/{name}" for name in ("clip", "lpips", "appearance_encoder", "denoising_unet", "motion_module", "pose_guider")),
    *(f"vectors/{name}" for name in ("inputs", "units", "b_appearance", "e_denoise")),
)
SELECTED = {
    "weights/vae": lambda name: not name.startswith(("decoder.", "post_quant_conv.")),
    "vectors/g_losses": lambda name: name in ("delta", "noise", "timestep", "tiled.grad.loss_app", "untiled.grad.loss_vae"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    shutil.copytree(arguments.source / "configs", arguments.target / "configs", dirs_exist_ok=True)
    (arguments.target / "vectors").mkdir(exist_ok=True)
    shutil.copyfile(arguments.source / "vectors" / "values.json", arguments.target / "vectors" / "values.json")
    for name in (*WHOLE, *SELECTED):
        keep = SELECTED.get(name, lambda _: True)
        tensors = load_file(arguments.source / f"{name}.safetensors")
        content = lzma.compress(save({key: value for key, value in tensors.items() if keep(key)}), preset=9)
        file = arguments.target / f"{name}.safetensors.xz"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        print(f"{len(content):8d} {file}")


if __name__ == "__main__":
    main()
