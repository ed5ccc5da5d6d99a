"""A pretend GPU: CPU tensors whose storages carry the label "cuda:0".

Real numbers lie inside, so that values, gradients and `.item()` are those of the CPU. Operations on mixed devices raise as on CUDA,
`.device` answers as there, bytes are counted, memory can end. Kernels, streams, speed and rounding are not covered.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
# What reads tensors of several devices on a real GPU too; what takes 0-dimensional CPU tensors, beside all pointwise operations.
MIXING = {"copy_", "_to_copy", "set_", "set_data", "_has_compatible_shallow_copy_type"}
SCALARS = {"index_put", "index_put_", "_index_put_impl_", "masked_fill", "masked_fill_", "fill_", "fill", "where"}
WAITS = {Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.nonzero, torch.equal}
_run_backward = torch.autograd._engine_run_backward
LIKE_THE_FIRST = {Tensor.__deepcopy__, Tensor.new_tensor}
TELLS_THE_DEVICE = {Tensor.device, Tensor.is_cuda, Tensor.is_cpu}
HOST_ONLY = {Tensor.numpy, Tensor.pin_memory, Tensor.__array__}


def label(tensor: Tensor) -> torch.device:
    with torch._C.DisableTorchFunction():
        return _label(_storage(tensor))


def _label(storage: Any) -> torch.device:
    return getattr(storage, "pretended", CPU)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage() if tensor.layout == torch.strided else None


def _tensors(tree: Any) -> list[Tensor]:
    """In any order. PyTorch's own flattening takes longer than most operations here."""
    found, waiting = [], [tree]
    while waiting:
        branch = waiting.pop()
        if isinstance(branch, Tensor):
            found.append(branch)
        elif isinstance(branch, (tuple, list)):
            waiting += branch
        elif isinstance(branch, dict):
            waiting += branch.values()
    return found


class PretendGPU(TorchDispatchMode):
    """While entered, "cuda" is there. capacity: its bytes. used, peak: bytes of living storages. syncs: how often the host waited.

    empty_host_cache: a mock of torch's. allocations: how many there were; from the one numbered `fail_at` on, memory is full.
    """

    def __init__(self, capacity: float = 80e9) -> None:
        super().__init__()
        self.capacity, self.used, self.peak, self.syncs = capacity, 0, 0, Counter[str]()
        self.allocations, self.fail_at = 0, float("inf")
        self.empty_host_cache = mock.Mock()
        # Whether Python code asked for the operation that runs, or autograd did by itself.
        self.asked = False
        self._functions, self._patches = _Functions(self), contextlib.ExitStack()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and asking before every operation takes longer than most of them

    def mark(self, tensor: Tensor, device: torch.device = CUDA) -> Tensor:
        storage = None if tensor.is_meta else _storage(tensor)
        if device == CPU and _label(storage) == CUDA:
            del storage.pretended
            storage.free()
        elif device == CUDA and _label(storage) == CPU and storage is not None:
            self._allocate(storage.nbytes())
            storage.pretended, storage.free = CUDA, weakref.finalize(storage, self._count, -storage.nbytes())
        return tensor

    def adopt(self, out: Any, known: set[int], device: torch.device) -> None:
        """Label storages that were not among the inputs."""
        for tensor in _tensors(out):
            if id(_storage(tensor)) not in known:
                self.mark(tensor, device)

    def _allocate(self, size: int) -> None:
        self.allocations += 1
        if self.used + size > self.capacity or self.allocations >= self.fail_at:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {size} wanted, {self.used} of {self.capacity:.0f} used")
        self._count(size)

    def _count(self, change: int) -> None:
        self.used += change
        self.peak = max(self.peak, self.used)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._dispatched(func, args, kwargs or {})

    def _dispatched(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = _tensors((args, kwargs))
        if not given and not self.asked and torch._C._current_graph_task_id() != -1:
            out = func(*args, **kwargs)
            # Zeros that autograd makes by itself; on a GPU it would make them there.
            _storage(out).neutral = True
            return out
        storages = [_storage(tensor) for tensor in given]
        labels = {_label(storage) for storage in storages}
        if len(labels) > 1:
            self._check(func, args, given)
        out = func(*args, **kwargs)
        if CUDA in labels:
            self.adopt(out, {id(storage) for storage in storages}, CUDA)
        return out

    def _check(self, func: Any, args: Any, given: list[Tensor]) -> None:
        name = func._schema.name.removeprefix("aten::")
        if name in MIXING:
            return
        for tensor in given:
            if hasattr(_storage(tensor), "neutral"):
                self.mark(tensor)
        if name.startswith(("index", "_index_put")) and _label(_storage(args[0])) == CUDA:
            return  # tensors on the GPU take indices from the CPU, not the other way round
        scalars = torch.Tag.pointwise in func.tags or name in SCALARS
        if len({_label(_storage(tensor)) for tensor in given if not (scalars and tensor.ndim == 0)}) > 1:
            where = [(str(_label(_storage(tensor))), [*tensor.shape]) for tensor in given]
            raise RuntimeError(f"Expected all tensors to be on the same device: {where} in {func}")

    def __enter__(self) -> PretendGPU:
        properties = SimpleNamespace(total_memory=int(self.capacity), major=8, minor=6, name="Pretend")
        memory = {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0}
        answers: dict[str, object] = {"is_available": True, "device_count": 1, "current_device": 0, "get_device_name": ""}
        answers |= {"get_device_properties": properties, "memory_stats": memory, "is_bf16_supported": True}
        answers |= dict.fromkeys(("synchronize", "empty_cache", "ipc_collect", "current_stream"), mock.MagicMock())
        functions: dict[str, Callable[..., object]] = {name: _answering(answer) for name, answer in answers.items()}
        # No mock: it would remember the exception with which a block ended, and all that was in its frames.
        functions["stream"], functions["Stream"] = contextlib.nullcontext, mock.MagicMock
        functions["mem_get_info"] = lambda *args: (int(self.capacity) - self.used, int(self.capacity))
        self._patches.enter_context(mock.patch.multiple(torch.cuda, **functions))
        self._patches.enter_context(mock.patch.object(Tensor, "record_stream", create=True))
        self._patches.enter_context(mock.patch.object(torch.accelerator, "empty_host_cache", self.empty_host_cache, create=True))
        self._patches.enter_context(mock.patch.object(torch.autograd, "_engine_run_backward", self._backward))
        self._patches.enter_context(mock.patch.object(torch, "Generator", _Generator))
        # It asks tensors for their device where no mode is on.
        checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
        self._patches.enter_context(mock.patch.dict(checks, {"default": lambda tensor: (tensor.shape, tensor.dtype)}))
        super().__enter__()
        self._functions.__enter__()
        return self

    def _backward(self, *args: Any, **kwargs: Any) -> Any:
        before, self.asked = self.asked, False
        try:
            # A mode is off while it answers for `Tensor.backward`; what a backward pass computes anew is asked for in Python again.
            with self._functions:
                return _run_backward(*args, **kwargs)
        finally:
            self.asked = before

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)
        self._patches.close()


class _Generator(torch.Generator):
    """Of the host, where the real one would be the device's: its numbers are other ones there too."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        generator = super().__new__(cls, device="cpu")
        generator.pretended = _device(device)
        return generator


def _answering(answer: object) -> Callable[..., object]:
    return lambda *args, **named: answer


class _Move(torch.autograd.Function):
    """Tensor.to between devices; its gradient goes back to where the tensor came from."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gpu: PretendGPU, device: torch.device, dtype: torch.dtype) -> Tensor:
        ctx.back = gpu, label(tensor), tensor.dtype
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            copied = torch.ops.aten._to_copy.default(tensor.detach(), dtype=dtype)
        return gpu.mark(copied, device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        gpu, device, dtype = ctx.back
        return _Move.apply(gradient, gpu, device, dtype), None, None, None


class _Functions(TorchFunctionMode):
    """Python's side: arguments that name a device, and attributes that tell it."""

    def __init__(self, gpu: PretendGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.OpOverload):
            # Another mode hands an operation on, with devices that it took from the real tensors.
            return func(*args, **(kwargs or {}))
        before, self.gpu.asked = self.gpu.asked, True
        try:
            return self._answer(func, args, dict(kwargs or {}))
        finally:
            self.gpu.asked = before

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        attribute = func.__self__ if getattr(func, "__name__", "") == "__get__" else None
        if attribute is not None and attribute not in TELLS_THE_DEVICE:
            return func(*args, **kwargs)
        on_gpu = bool(args) and isinstance(args[0], Tensor) and label(args[0]) == CUDA
        if attribute is not None:
            return {Tensor.device: CUDA if on_gpu else func(*args), Tensor.is_cuda: on_gpu, Tensor.is_cpu: not on_gpu}[attribute]
        if on_gpu and func in HOST_ONLY:
            raise TypeError(f"{func.__name__} of a tensor on the GPU: use Tensor.cpu() first")
        if func is Tensor.pin_memory:
            return args[0].clone()
        if on_gpu and func in WAITS:
            self.gpu.syncs[func.__name__] += 1
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._to(func, args, kwargs)
        if func is Tensor.copy_ and label(args[0]) != label(args[1]):
            args = (args[0], _Move.apply(args[1], self.gpu, label(args[0]), args[1].dtype), *args[2:])
        if func is Tensor.__setitem__ and isinstance(args[2], Tensor) and label(args[0]) != label(args[2]):
            args = (*args[:2], _Move.apply(args[2], self.gpu, label(args[0]), args[2].dtype))
        return self._run(func, args, kwargs, on_gpu=on_gpu)

    def _run(self, func: Any, args: Any, kwargs: Any, *, on_gpu: bool) -> Any:
        device = None if kwargs.get("device") is None else _device(kwargs["device"])
        generator = kwargs.get("generator")
        if generator is not None and getattr(generator, "pretended", CPU) != (device or (CUDA if on_gpu else CPU)):
            raise RuntimeError(f"The generator is of another device than the numbers that {func.__name__} is asked for")
        if device == CUDA:
            kwargs["device"] = "cpu"
        if device not in (CPU, CUDA):
            out = func(*args, **kwargs)
        else:
            known = {id(_storage(tensor)) for tensor in _tensors((args, kwargs))}
            out = func(*args, **kwargs)
            self.gpu.adopt(out, known, device)
        return self.gpu.mark(out) if on_gpu and device is None and func in LIKE_THE_FIRST else out

    def _to(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        tensor, rest = args[0], [*args[1:], kwargs.get("other"), kwargs.get("device"), kwargs.get("dtype")]
        like = next((x for x in rest if isinstance(x, Tensor)), None)
        places = [_device(x) for x in rest if isinstance(x, (str, torch.device)) or type(x) is int]
        device = {Tensor.cpu: CPU, Tensor.cuda: CUDA}.get(func, label(tensor)) if like is None else label(like)
        device = places[0] if places else device
        dtype = next((x for x in rest if isinstance(x, torch.dtype)), tensor.dtype if like is None else like.dtype)
        if device not in (CPU, CUDA) or device == label(tensor) or tensor.is_meta:
            return Tensor.to(tensor, CPU if device == CUDA else device, dtype, copy=kwargs.get("copy", False))
        self.gpu.syncs["to cpu"] += device == CPU
        return _Move.apply(tensor, self.gpu, device, dtype)


def _device(name: Any) -> torch.device:
    """Any name of the one GPU, as an index too, becomes CUDA."""
    device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    return CUDA if device.type == "cuda" else device
