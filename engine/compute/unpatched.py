"""diffusers' and PyTorch's functions as they were published, whatever other packs in the same process have put in their place.

Upstream's MimicMotion and StableAnimator, for instance, replace GEGLU.forward by one that works in place and has no backward pass, and
SageAttention's instructions replace scaled_dot_product_attention by one that has none either.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar

import torch
from torch import nn

Thing = TypeVar("Thing")

_PACKAGE = "diffusers"


def unpatched(thing: Thing) -> Thing:
    """A network, or an attention processor, whose parts from diffusers keep their own functions, patched before or after this call.

    Each of them becomes an instance of a subclass that holds the published functions of its class; nothing else changes, and others'
    networks keep what was patched.
    """
    parts: Iterable[Any] = thing.modules() if isinstance(thing, nn.Module) else [thing]
    for part in parts:
        for own in (part, vars(part).get("processor")):
            if type(own).__module__.startswith(f"{_PACKAGE}."):
                kind: Any = type(own)
                own.__class__ = _own(kind)
    return thing


@contextlib.contextmanager
def own_attention() -> Iterator[None]:
    """While it lasts, scaled_dot_product_attention is PyTorch's."""
    before = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = torch._C._nn.scaled_dot_product_attention
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = before


@cache
def _own(kind: type) -> type:
    if issubclass(kind, _Own):
        return kind
    functions: dict[str, Any] = {}
    for base in kind.__mro__:
        published = _functions(base) if base.__module__.startswith(f"{_PACKAGE}.") else {}
        functions = {name: published.get(name) for name in vars(base)} | functions
    kept = {name: function for name, function in functions.items() if function is not None}
    return type(kind.__name__, (kind, _Own), {**kept, "__module__": kind.__module__, "__qualname__": kind.__qualname__})


class _Own:
    """Marks classes that are made here."""


def _functions(kind: type) -> dict[str, FunctionType]:
    """Those that the class itself defines, as published."""
    found = {name: value for name, value in vars(kind).items() if isinstance(value, FunctionType)}
    if all(_is_published(function) for function in found.values()):
        return found
    fresh: Any = _fresh(kind.__module__)
    for name in kind.__qualname__.split("."):
        fresh = getattr(fresh, name)
    return {name: value for name, value in vars(fresh).items() if isinstance(value, FunctionType)}


def _is_published(function: FunctionType) -> bool:
    """Whether its code stands in diffusers, or in PyTorch, whose decorators wrap some."""
    folders = [Path(str(sys.modules[package].__file__)).parent for package in (_PACKAGE, "torch")]
    return any(Path(function.__code__.co_filename).is_relative_to(folder) for folder in folders)


@cache
def _fresh(module: str) -> ModuleType:
    """The module from its file once more, beside the one that others use."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ImportError(f"{module} cannot be read again.")
    fresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fresh)
    return fresh
