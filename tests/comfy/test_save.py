"""Save Protected Image in this process: its files through ComfyUI's own loader, and what it refuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy")
Save = Callable[..., tuple[str, list[Path]]]


@pytest.fixture
def save(comfy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    """Runs the node with keywords in place of its defaults; the report, and the files that lie in the output folder."""
    import folder_paths
    from stillguard.nodes.checked import checked
    from stillguard.nodes.protect.save import SaveProtectedImage

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))

    def run(images: Tensor, *, prompt: object = None, **inputs: object) -> tuple[str, list[Path]]:
        node = checked(SaveProtectedImage).PREPARE_CLASS_CLONE(None)
        node.hidden = SimpleNamespace(prompt=prompt, extra_pnginfo={"workflow": {"last": float("inf")}}, unique_id="1")
        given = {"filename_prefix": "test/saved", "format": "png", "budget": 8.0, "keep_workflow": False, **inputs}
        report = node.execute(images=images, **given).args[0]
        return report, sorted((tmp_path / "test").iterdir())

    return run


def test_a_name_without_a_folder_is_saved_in_the_output_folder_itself(save: Save, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    report, _ = save(torch.rand(1, 8, 8, 3), filename_prefix="mine", format="png")
    assert "comes back unchanged through Load Image" in report
    assert (tmp_path / "mine_00001_.png").is_file()


@pytest.mark.parametrize("keep_workflow", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (37, 53), (33, 31), (2, 300), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("format", ["png", "webp"])
def test_what_comes_back_through_comfyuis_own_loader_is_what_the_report_says(
    save: Save, format: str, channels: int, size: tuple[int, int], keep_workflow: bool
) -> None:
    """PNG to the bit, colour and mask. WebP is nowhere called unchanged."""
    import av.error

    import nodes

    levels = torch.randint(0, 256, (1, *size, channels), generator=torch.Generator().manual_seed(channels))
    report, (file,) = save(levels / 255, format=format, prompt={}, keep_workflow=keep_workflow)
    colour = (levels[..., :3] / 255).expand(-1, -1, -1, 3)
    try:
        loaded, mask = nodes.LoadImage().load_image(f"test/{file.name} [output]")
    except av.error.FFmpegError:
        assert "ComfyUI's Load Image cannot read it: save it as png" in report
        assert format == "webp"
        return
    moved = int((loaded * 255 - colour * 255).abs().round().max())
    if format == "png":
        assert torch.equal(loaded, colour)
        assert channels < 4 or torch.equal(mask, 1 - levels[..., 3] / 255)
    assert ("comes back unchanged through Load Image" in report) == (moved == 0)
    assert (f"Load Image changes it by up to {moved} level" in report) == (moved > 0)


def test_the_default_format_is_one_that_comes_back_unchanged(comfy: None) -> None:
    from stillguard.nodes.protect.save import SaveProtectedImage

    (format,) = (one for one in SaveProtectedImage.define_schema().inputs if one.id == "format")
    assert (format.default or format.options[0]) == "png"
    assert "do not attack this file" in format.tooltip


def test_a_batch_with_one_picture_over_budget_is_not_written_at_all(save: Save, tmp_path: Path) -> None:
    clean = torch.full((1, 8, 8, 3), 0.5)
    batch = clean.repeat(4, 1, 1, 1)
    batch[2, 0, 0, 0] = 0.7
    with pytest.raises(ValueError, match=r"^Picture 3 differs from the clean one by 50 levels where the budget is 8, so none was saved: "):
        save(batch, clean=clean)
    assert not list(tmp_path.iterdir())
    report, files = save(batch[:2], clean=clean)
    assert len(files) == 2
    assert report.count("differs by at most 0 levels") == 2


def test_files_are_strict_json_whatever_another_pack_left_in_the_prompt(save: Save) -> None:
    """And nothing is lost: ComfyUI reads the words as the numbers that they are."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    prompt = {"1": {"inputs": {"strength": float("-inf"), "size": [1.5, 2]}, "is_changed": [float("nan")]}}
    _, (file,) = save(torch.rand(1, 8, 8, 3), prompt=prompt, keep_workflow=True)
    told: dict[str, Any] = {name: json.loads(text, parse_constant=refuse) for name, text in Image.open(file).info.items()}
    assert told == {"prompt": {"1": {"inputs": {"strength": "-inf", "size": [1.5, 2]}, "is_changed": ["nan"]}}, "workflow": {"last": "inf"}}
    assert float(told["prompt"]["1"]["inputs"]["strength"]) == float("-inf")


def test_what_installed_victims_depends_on_is_strict_json_and_tells_nothing(comfy: None) -> None:
    from stillguard.nodes.attack.installed_victims import InstalledVictims

    told = InstalledVictims.fingerprint_inputs()
    assert json.loads(json.dumps(told, allow_nan=False)) == InstalledVictims.fingerprint_inputs()
    assert set(told) <= set("0123456789abcdef")


def test_disable_metadata_is_kept_to_and_said(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    from comfy.cli_args import args

    monkeypatch.setattr(args, "disable_metadata", True)
    report, (file,) = save(torch.rand(1, 8, 8, 3), prompt={}, keep_workflow=True)
    assert Image.open(io.BytesIO(file.read_bytes())).info == {}
    assert report.endswith("The workflow was not written, since ComfyUI was started with --disable-metadata.")


@pytest.mark.parametrize("name", ["x" * 300, "y" * 300 + "/z", "nul\0byte", "half a pair \ud83d"])
def test_a_name_that_no_file_can_have_is_one_sentence(save: Save, tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^No file can be called .*, which is too long or has characters .*: choose another filename_prefix\.$"
    ):
        save(torch.rand(1, 8, 8, 3), filename_prefix=f"test/{name}")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_text_with_half_a_surrogate_pair_is_shown(comfy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from server import PromptServer
    from stillguard.nodes.bridge.progress import show_text

    sent: list[object] = []
    instance = SimpleNamespace(send_sync=lambda event, data, sid=None: sent.append(data))
    instance.send_progress_text = lambda *told: PromptServer.send_progress_text(instance, *told)  # core's own
    monkeypatch.setattr(PromptServer, "instance", instance, raising=False)
    show_text("a title cut in \ud83d", node_id="1")
    assert sent[0].endswith(b"a title cut in ?")
