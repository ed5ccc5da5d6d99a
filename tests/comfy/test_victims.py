"""Installed Victims in the real server, without third-party packs."""

from __future__ import annotations

from pathlib import Path

from bench.client import Client
from bench.server import ComfyServer
from support import node

ROOT = Path(__file__).parents[2]


def lines(client: Client) -> dict[str, list[str]]:
    """Heading -> its lines."""
    result = client.run({"victims": node("StillguardInstalledVictims")})
    assert result.status == "success", result.error
    sections = result.outputs["victims"]["text"][0].split("\n\n")
    return {section.split("\n")[0].split(" (")[0].split(";")[0]: section.split("\n")[1:] for section in sections}


def test_core_victims_are_ready_where_their_files_lie_and_packs_are_named(client: Client) -> None:
    listed = lines(client)
    ready, missing = "\n".join(listed["Can run now"]), "\n".join(listed["Cannot run: nodes are missing"])
    # The test server has these files, and no third-party pack.
    assert "- SVD: workflow attack_svd" in ready
    assert "- Laboratory's animator: workflow attack_lab" in ready
    assert "install MimicMotionWrapper (github.com/kijai/ComfyUI-MimicMotionWrapper)" in missing
    assert "models/animatediff_models/*pia*" in missing
    assert "update ComfyUI" not in missing


def test_a_file_that_appears_is_seen_at_the_next_run(client: Client, server: ComfyServer) -> None:
    """Neither ComfyUI's cache of results nor that of its file lists keeps the old answer."""

    def hunyuan() -> str:
        return next(line for section in lines(client).values() for line in section if line.startswith("- HunyuanVideo image-to-video"))

    assert "models/clip_vision/*llava*llama3*" in hunyuan()
    file = server.base / "models" / "clip_vision" / "Llava_Llama3_vision.safetensors"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    try:
        assert "models/clip_vision" not in hunyuan()
    finally:
        file.unlink()


def test_every_workflow_that_is_named_is_in_the_repository(client: Client) -> None:
    named = [part.split(",")[0] for section in lines(client).values() for line in section for part in line.split(": workflow ")[1:]]
    assert len(named) > 10
    assert {name for name in named if not (ROOT / "workflows" / f"{name}.json").is_file()} == set()
