"""What may be told of a prompt's values: never a path, an address or a secret, and names of files only where the user asks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

NAME_LEFT_OUT, PATH_LEFT_OUT, ADDRESS_LEFT_OUT, SECRET = "(file name left out)", "(path left out)", "(address left out)", "(left out)"

_MODEL = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|th|bin|onnx|gguf|pkl|engine)$", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:\b[a-z][a-z0-9+.-]*://|\bwww\.)[^\s\"'<>]*", re.IGNORECASE)
_FROM_ROOT = r"""file:|~[\\/]|/[^\s/]+/|[A-Za-z]:[\\/]|\\\\|%\w+%[\\/]|\$\{?(?:env:)?\w+\}?[\\/]"""
# A path from the root of a disk or a home folder, and all that follows it in its line, since names may hold blanks.
_ABSOLUTE = re.compile(rf"(?:(?<=^)|(?<=[\s\"'`=(\[{{<|,;:]))(?:{_FROM_ROOT})[^\n]*", re.MULTILINE)
_EMBEDDED = re.compile(r"\bdata:[^\s\"']*|\bblake3:\w*")
_MEDIA = (
    "jpe?g|jpe|jfif|jp2|j2k|jxl|png|apng|webp|gif|bmp|tiff?|hei[cf]|avif|svg|ico|psd|raw|dng|cr[23]|nef|arw|orf|rw2|raf|tga|exr|hdr|"
    "p[bgpn]m|mp4|m4v|mov|mkv|webm|avi|wmv|flv|mpe?g|m2?ts|3gp|mp3|wav|flac|ogg|opus|m4a|aac|wma|aiff?|csv|txt|json|np[yz]|latent|zip"
)
# Names may hold blanks, so one begins where a line, a list's entry or a quotation does.
_PIECES = re.compile(r"[^\n\r\t,;|\"'`<>\[\]{}]+")
_FILE = re.compile(rf"(?P<media>.*\.(?:{_MEDIA}))(?!\w)|.*\.[A-Za-z]\w{{1,4}}(?=\s*$|\s*\Z)", re.IGNORECASE)
_KEYED = re.compile(
    r"(?P<key>[\w-]*(?: key)?)(?P<sign>[\"']?\s*[:=]\s*)(?P<value>[\"']?(?:(?:bearer|basic|token)\s+)?[^\s\"'&,;]+)", re.IGNORECASE
)
_SECRET = re.compile(
    r"apikey|accesskey|privatekey|secretkey|secret|passw|passphrase|pwd|token(?!iz)|auth(?!or(?!i))|bearer|credential|cookie|signature"
)
_NAMES = re.compile(
    r"^(image|picture|photo|video|audio|mask)s?$|(^|_)(files?|filenames?|paths?|folders?|subfolder|dir|directory|directories|urls?|uri)(_|$)"
)


def publishable(name: object, value: Any) -> Any:
    """A value of a prompt, under its name, as anybody may read it."""
    return _value(str(name), value, names=False)


def without_paths(value: Any) -> Any:
    """A value of a prompt, or a whole one, with the names of files in it but without paths, addresses and secrets."""
    return _value("", value, names=True)


def without_folders(sentence: str) -> str:
    """A sentence of ours or of a library, which may name sources on the net but no place on this disk."""
    return _ABSOLUTE.sub(PATH_LEFT_OUT, sentence)


def _value(name: str, value: Any, *, names: bool) -> Any:
    if isinstance(value, Mapping):
        return {_text(str(key), names=names): _value(f"{key}", entry, names=names) for key, entry in value.items()}
    if _secret(name) and isinstance(value, (str, list, tuple)):
        return SECRET
    if isinstance(value, (list, tuple)):
        return [_value(name, entry, names=names) for entry in value]
    if not isinstance(value, str):
        return value
    if not names and _holds_names(name) and not _MODEL.search(value):
        return NAME_LEFT_OUT if value else value
    return _text(value, names=names)


def _text(text: str, *, names: bool) -> str:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            return json.dumps(_value("", json.loads(text), names=names), ensure_ascii=False)
        except ValueError:
            pass  # a prompt's emphasis looks like that too
    if _MODEL.search(text) and "\n" not in text and _ABSOLUTE.search(text):
        return PureWindowsPath(text).name
    text = _EMBEDDED.sub(NAME_LEFT_OUT, text)
    text = _KEYED.sub(lambda found: f"{found['key']}{found['sign']}{SECRET}" if _secret(found["key"]) else found[0], text)
    text = _ABSOLUTE.sub(PATH_LEFT_OUT, _ADDRESS.sub(ADDRESS_LEFT_OUT, text))
    return text if names else _PIECES.sub(lambda piece: _piece(piece[0]), text)


def _piece(text: str) -> str:
    if _MODEL.search(text.strip()):
        return text
    return _FILE.sub(NAME_LEFT_OUT, text)


def _secret(name: str) -> bool:
    return bool(_SECRET.search(re.sub(r"[^a-z0-9]", "", name.lower())))


def _holds_names(name: str) -> bool:
    return bool(_NAMES.search(re.sub(r"\W+", "_", name.rpartition(".")[2].lower())))
