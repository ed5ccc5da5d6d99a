"""Our mathematics against numbers of the authors' own code: a part on every machine, the whole set where it lies at hand."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from goldens import baselines_edits, dormant, tha3
from goldens.folder import Folder
from PIL import Image
from safetensors.torch import load_file, save_file
from vectors import checks

ROOT = Path(__file__).parents[1]
PART = ROOT / "tests" / "data" / "dormant"
SCRIPT = ROOT / "tests" / "vectors.py"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_committed_part_of_the_official_numbers() -> None:
    rows = list(checks(PART))
    assert [row.name for row in rows if not row.passed] == []
    for told in ("latent, tiled", "MagicAnimate feature 15", "denoiser, with bank", "tiled gradient of loss_app, direction"):
        assert told in [row.name for row in rows]


def test_all_of_the_official_numbers(shared: Path) -> None:
    rows = list(checks(shared / "vectors" / "golden"))
    assert [row.name for row in rows if not row.passed] == []
    for told in ("tiled run after 10", "untiled run after 10", "gradient of the whole at the official start, size"):
        assert told in [row.name for row in rows]


def test_all_of_the_official_numbers_of_baselines(shared: Path) -> None:
    rows = list(checks(shared / "vectors" / "baselines"))
    assert [row.name for row in rows if not row.passed] == []
    # One of each module that compares: a set whose files were not found would pass without a row.
    names = [row.name for row in rows]
    for told in (
        "mist_v2_fused after 5",
        "photoguard_diffusion_l2 after 5",
        "mist_v2_lora_cotraining after the second round",
        "jpeg_pil_q75",
        "diffpure_t150 purified",
        "GrIDPure",
        "DisCo's LPIPS",
        "KID of 40 and 40",
        "face_lvd, correct",
    ):
        assert told in names


def test_all_of_the_official_numbers_of_the_face_animator(shared: Path) -> None:
    rows = list(checks(shared / "vectors" / "tha3"))
    assert [row.name for row in rows if not row.passed] == []
    names = [row.name for row in rows]
    for told in ("blink, eyebrows", "talk, frame", "gradient at talk, direction"):
        assert told in names
    assert len(rows) == 2 * 6 + 2


def test_all_of_the_official_numbers_of_silencer(shared: Path) -> None:
    rows = list(checks(shared / "vectors" / "hallo"))
    assert [row.name for row in rows if not row.passed] == []
    names = [row.name for row in rows]
    for told in (
        "bank with motion frames 15",
        "reference prediction of several frames",
        "faithful prediction without audio",
        "audio block's zero_conv_lip",
        "generation, result",
        "gradient, train, direction",
        "loss, eval_low_t",
        "run after 5",
        "native lip_mask_attn.3",
    ):
        assert told in names


def test_the_pose_of_the_gradient_is_what_the_readme_says() -> None:
    readme = "Poses `a`, `b` and `talk`.\n\n* `frame`: of `a`.\n* `gradient` [4,512,512]: at the pose `b`, nothing detached; at `a` not.\n"
    assert tha3.pose_of_the_gradient(["a", "b", "talk"], readme) == "b"
    assert tha3.pose_of_the_gradient(["a", "talk"], "") == "talk"
    assert tha3.pose_of_the_gradient(["c", "d"], readme) == "c"


def test_a_network_that_is_slightly_off_is_missed(tmp_path: Path) -> None:
    """Guards the two tests above; and the command says so with its exit code."""
    folder = tmp_path / "part"
    shutil.copytree(PART, folder)
    for packed in ("weights/pose_guider", "weights/clip"):
        (folder / f"{packed}.safetensors.xz").unlink()
    whole = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "MISS" not in whole.stdout
    file = folder / "vectors" / "b_appearance.safetensors"
    import lzma

    packed = file.with_name(f"{file.name}.xz")
    file.write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    numbers = load_file(file)
    numbers["latents"] = numbers["latents"] * 1.001
    save_file(numbers, file)
    spoilt = subprocess.run([sys.executable, str(SCRIPT), str(folder)], capture_output=True, text=True, check=False)
    assert spoilt.returncode == 1
    assert "MISS MagicAnimate feature 15" in spoilt.stdout


def test_a_set_of_other_numbers_is_compared_by_its_own(tmp_path: Path) -> None:
    """Forty denoising steps, with diffusers' schedule of the set's configuration as the oracle; a JPEG quality that no set had so far."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "vectors").mkdir()
    steps, config = 40, json.loads((PART / "configs" / "scheduler.json").read_text(encoding="utf-8"))
    del config["num_inference_steps"]
    scheduler = DDIMScheduler(**config)
    scheduler.set_timesteps(steps)
    last = scheduler.timesteps[-10:]
    run = {**json.loads((PART / "configs" / "run.json").read_text(encoding="utf-8")), "steps": steps}
    (tmp_path / "configs" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    sample, output = torch.randn(2, 10, 1, 4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    estimates = [scheduler.step(o, int(t), x).pred_original_sample for o, t, x in zip(output, last, sample, strict=True)]
    numbers = {
        "timesteps": scheduler.timesteps,
        "t": last.clone(),
        "alphas_cumprod": scheduler.alphas_cumprod,
        "sample": sample,
        "model_output": output,
    }
    save_file({**numbers, "pred_original_sample": torch.stack(estimates)}, tmp_path / "vectors" / "f_ddim.safetensors")
    folder = Folder(tmp_path)
    rows = list(dormant.schedule(folder))
    assert [row.name for row in rows if not row.passed] == []
    assert len(rows) == 12
    draws = dormant.OfficialDraws(sample, last[3], dormant.timesteps(folder))
    assert draws.integer("timestep", 10) == 3

    levels = torch.randint(0, 256, (24, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    Image.fromarray(levels.numpy()).save(buffer, "JPEG", quality=61)
    save_file(
        {"in_u8": levels, "jpeg_pil_q61": torch.from_numpy(np.array(Image.open(buffer)))}, tmp_path / "vectors" / "b_transforms.safetensors"
    )
    assert [(row.name, row.passed) for row in baselines_edits.checks(folder)] == [("jpeg_pil_q61", True)]


def test_a_folder_that_is_no_set(tmp_path: Path) -> None:
    outcome = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "is none of the sets known here" in outcome.stderr
