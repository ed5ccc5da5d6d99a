"""attack_silencer in the real server: protect, attack with other words, measure, report. Its networks are random: no effect is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import pytest
from bench.client import Result
from bench.prompt import load_prompt, titles
from bench.server import ComfyServer
from support import Graph, make_quick

WORKFLOW = Path(__file__).parents[2] / "workflows" / "attack_silencer.json"
FRAMES = 5
"""Of a fifth of a second."""


@pytest.fixture(scope="module")
def run(server: ComfyServer) -> tuple[Graph, Result]:
    with server.client(silence_seconds=120) as client:
        prompt = make_quick(load_prompt(WORKFLOW, client.object_info()))
        result = client.run(prompt)
    assert result.status == "success", result.error
    return prompt, result


def by_title(run: tuple[Graph, Result]) -> dict[str, dict[str, Any]]:
    """Title of a node -> what it sent to the page."""
    names = titles(run[0])
    return {names[key]: output for key, output in run[1].outputs.items()}


def file(server: ComfyServer, entry: dict[str, str]) -> Path:
    return server.base / entry["type"] / entry["subfolder"] / entry["filename"]


def test_the_report_has_the_distances_of_mouth_and_face(run: tuple[Graph, Result], server: ComfyServer) -> None:
    (page,) = by_title(run)["Protection Report"]["stillguard_report"]
    document = json.loads(file(server, {"type": "output", **page}).with_suffix(".json").read_text(encoding="utf-8"))
    (victim,) = document["victims"]
    assert (victim["victim"], victim["surrogate"]) == ("Hallo", True)
    readings = {row["name"]: row["readings"] for row in victim["rows"]}
    for name in ("M-LMD", "F-LMD"):
        for branch in ("protected", "noise"):
            # The tests' detector finds the same face in every bright frame.
            assert (readings[name][branch]["value"], readings[name][branch]["n"]) == (pytest.approx(0, abs=1e-3), FRAMES)
    assert readings["L1"]["protected"]["value"] > 0
    assert document["visibility"]["protected"]["linf"] == document["visibility"]["noise"]["linf"] == 8


def test_all_three_say_the_same_and_the_protection_heard_something_else(run: tuple[Graph, Result]) -> None:
    prompt = run[0]
    sounds = {titles(prompt)[key]: entry["inputs"]["audio"] for key, entry in prompt.items() if "audio_encoder" in entry["inputs"]}
    protection = sounds.pop("Silencer")
    assert sorted(sounds) == ["Attack: clean", "Attack: noise", "Attack: protected"]
    (said,) = {tuple(link) for link in sounds.values()}
    recording = prompt[said[0]]["inputs"]["audio"]
    assert prompt[recording[0]]["inputs"]["audio"] != prompt[protection[0]]["inputs"]["audio"]


def test_the_video_shows_all_three_and_has_their_sound(run: tuple[Graph, Result], server: ComfyServer) -> None:
    (entry,) = by_title(run)["Clean, protected, noise"]["images"]
    with av.open(str(file(server, entry))) as video:
        assert len(video.streams.audio) == 1
        (stream,) = video.streams.video
        assert (stream.width, stream.height, stream.average_rate) == (3 * 64, 64, 25)
        assert sum(1 for _ in video.decode(stream)) == FRAMES
