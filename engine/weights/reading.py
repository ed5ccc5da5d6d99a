"""Reading weights files of any origin without running anything that they may hold."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

SAFETENSORS = (".safetensors", ".sft")


class WeightsError(ValueError):
    """A weights file that cannot be used. The message is one sentence that names the file and says what to do."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors or PyTorch file by name, on the CPU, mapped from disk where the format permits.

    PyTorch files are read with weights_only, so code inside one is refused and not run; a `state_dict` around the tensors is
    taken off. Raises WeightsError for a file that is damaged, holds code, or holds no tensors.
    """
    if path.suffix.lower() in SAFETENSORS:
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise _damaged(path) from error
    content = _torch_file(path)
    while isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError(f"{path.name} holds no weights: choose another file.")
    return tensors


Network = TypeVar("Network", bound=nn.Module)


def load_own(network: Network, path: Path) -> Network:
    """Fill a network of the laboratory from its file of fp16 weights, in fp32, frozen, in eval mode.

    Raises WeightsError when the file is missing, damaged, or another's (names or shapes).
    """
    if not path.is_file():
        raise WeightsError(f"The laboratory's file {path.name} is missing in {path.parent.name}: restore it, or train it anew.")
    state = {key: value.float() for key, value in read_weights(path).items()}
    # Files of weights hold no counters and no constants, and nothing reads them.
    wanted = {key: value.shape for key, value in network.state_dict().items() if value.is_floating_point()}
    if wanted != {key: value.shape for key, value in state.items()}:
        raise WeightsError(f"{path.name} holds another network than its name says: restore it, or train it anew.")
    network.load_state_dict(state, strict=False)
    return network.eval().requires_grad_(False)


def _torch_file(path: Path) -> object:
    if _is_torch_script(path):
        raise WeightsError(f"{path.name} is a TorchScript program, of which nothing was run: take the same weights as safetensors.")
    try:
        # Only zip archives can be mapped; torch's older format has to be read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if zipfile.is_zipfile(path) or path.open("rb").read(1) == pickle.PROTO:
            raise WeightsError(
                f"{path.name} holds program code instead of bare weights, and nothing of it was run: delete it and take the file from its "
                "original publisher."
            ) from error
        raise _damaged(path) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path) from error


def _is_torch_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _damaged(path: Path) -> WeightsError:
    size = path.stat().st_size / 1e6 if path.exists() else 0.0
    return WeightsError(f"{path.name} ({size:.0f} MB) is damaged or was not downloaded to its end: download it again.")
