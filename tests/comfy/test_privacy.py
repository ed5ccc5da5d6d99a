"""What a report tells of a prompt's values: nothing of names of photos, places on the disk, addresses and secrets, wherever they stand."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("comfy")

NAMES = ["zoe.jpg", "zoe (1).HEIC", "zoe.webp ", "album/zoe.png", "zoe.tar.gz.jpeg", "zoe.png [input]", "zoe.MP4", "zoe.mov"]
PLACES = [
    "/home/zoe/x",
    "~/zoe",
    r"C:\Users\zoe\x",
    r"\\nas\zoe",
    r"%USERPROFILE%\zoe",
    "$HOME/zoe",
    "${HOME}/zoe",
    "file:///zoe",
    "/mnt/a/zoe b",
]
ADDRESSES = ["https://x.y/zoe.jpg?token=zoe", "http://zoe:zoe@host/a", "s3://bucket/zoe", "www.x.y/zoe", "data:image/png;base64,zoe"]
SECRETS = ["API Key", "api_key", "apikey", "authorization", "access_key", "hf_token", "Client-Secret", "password", "cookie", "X-Auth"]
WRAPPED: dict[str, Callable[[str], object]] = {
    "alone": lambda text: text,
    "list": lambda text: ["first", text],
    "nested": lambda text: {"1": {"value": [text], "on": True}},
    "JSON": lambda text: json.dumps([{"a": text}]),
    "JSON in a list": lambda text: [json.dumps({"a": [text]})],
    "lines": lambda text: f"first\n{text}\nlast",
    "quoted": lambda text: f'"{text}"',
    "in commas": lambda text: f"first, {text}",
    "with settings": lambda text: f"{text};0;30",
    "key": lambda text: {text: 1},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=list(WRAPPED))
@pytest.mark.parametrize("text", [*NAMES, *PLACES, *ADDRESSES])
def test_what_names_the_user_is_left_out_wherever_it_stands(text: str, wrap: Callable[[str], object]) -> None:
    from stillguard.nodes.bridge.privacy import publishable, without_paths

    assert "zoe" not in str(publishable("anything", wrap(text)))
    if text not in NAMES:
        assert "zoe" not in str(without_paths({"anything": wrap(text)}))


@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: [v], lambda v: [v, [v]]], ids=["alone", "list", "lists"])
@pytest.mark.parametrize("key", SECRETS)
def test_secrets_are_left_out_by_their_keys(key: str, wrap: Callable[[str], object]) -> None:
    from stillguard.nodes.bridge.privacy import publishable, without_paths

    for document in ({key: wrap("zoe")}, {"deep": [{key: wrap("zoe")}]}, json.dumps({key: wrap("zoe")})):
        assert "zoe" not in str(publishable("anything", document))
        assert "zoe" not in str(without_paths(document))
    assert "zoe" not in str(publishable(key, wrap("zoe")))


@pytest.mark.parametrize("text", ["Authorization: Bearer zoe", "api_key=zoe", 'curl "x" token: zoe', "a=1&access_key=zoe&b=2"])
def test_secrets_are_left_out_within_a_text(text: str) -> None:
    from stillguard.nodes.bridge.privacy import publishable

    assert "zoe" not in publishable("anything", text)


VALUES = st.recursive(
    st.sampled_from([*NAMES, *PLACES, *ADDRESSES, "a text", "1.5", "", "[", "{a: b}", "(word:1.2)"])
    | st.integers()
    | st.booleans()
    | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "image", "text", *NAMES]), inner, max_size=3)
        | inner.map(json.dumps)
    ),
    max_leaves=6,
)


@given(VALUES)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_nesting_is_told_without_them(value: object) -> None:
    from stillguard.nodes.bridge.privacy import publishable

    assert "zoe" not in json.dumps(publishable("anything", value))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image", "me.png", "(file name left out)"),
        ("images", ["me.png", "you.png"], ["(file name left out)"] * 2),
        ("video", "C:\\Users\\jane\\holiday.mkv", "(file name left out)"),
        ("filename_prefix", "jane/protected", "(file name left out)"),
        ("input_dir", "jane", "(file name left out)"),
        ("file", "stillguard_lab_reference_unet.safetensors", "stillguard_lab_reference_unet.safetensors"),
        ("ckpt_name", "video/svd_xt.safetensors", "video/svd_xt.safetensors"),
        ("model", "/home/jane/models/mine.ckpt", "mine.ckpt"),
        ("model", "D:\\models\\mine.gguf", "mine.gguf"),
        ("text", "a woman and/or a man, v1.5.", "a woman and/or a man, v1.5."),
        ("text", "a (photo:1.2) of [a man|a woman], 4k", "a (photo:1.2) of [a man|a woman], 4k"),
        ("text", "time: 10:30, size = large", "time: 10:30, size = large"),
        ("text", "like /home/jane doe/me", "like (path left out)"),
        ("cut", "me.jpg;0;30", "(file name left out);0;30"),
        ("tokenizer", "clip-l", "clip-l"),
        ("author", "x", "x"),
        ("max_tokens", 77, 77),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("switch", False, False),
        ("update.step", 0.5, 0.5),
        ("image_interpolation", "lanczos", "lanczos"),
        ("format", "png", "png"),
    ],
)
def test_which_settings_are_told(name: str, value: object, expected: object) -> None:
    from stillguard.nodes.bridge.evaluate.report import node_settings

    prompt = {"a": {"class_type": "Any", "inputs": {name: value, "link": ["b", 0]}}, "b": {"class_type": "Loop", "inputs": {"x": ["a", 0]}}}
    prompt["report"] = {"class_type": "Report", "inputs": {"comparison": ["a", 0]}}
    (entry,) = node_settings(prompt, "report")  # a loop in the graph ends, and b has no settings
    assert entry.values == {name: expected}


def test_the_whole_prompt_is_told_with_names_but_without_folders_and_secrets() -> None:
    from stillguard.nodes.bridge.privacy import without_paths

    prompt = {"1": {"inputs": {"image": "me.png", "path": "/home/jane/x", "password": "secret", "n": [1.5, None], "link": ["2", 0]}}}
    kept = {"1": {"inputs": {"image": "me.png", "path": "(path left out)", "password": "(left out)", "n": [1.5, None], "link": ["2", 0]}}}
    assert without_paths(prompt) == kept
