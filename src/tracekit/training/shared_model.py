"""The same network in several processes: copied (DDP), or shared out (FSDP2), or just here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tracekit.training.optimiser import trained_parameters
from tracekit.training.processes import Processes
from tracekit.training.train_state import OPTIMISER_STATE


class SharedModel:
    """A network with a forward pass whose gradients are the mean over processes."""

    def __init__(self, model: nn.Module, processes: Processes, *, shard: Callable[[Processes], None] | None = None) -> None:
        """`shard` shares the network's weights out among the processes (FSDP2); without it each has a copy."""
        self.model = model
        self._ddp: DistributedDataParallel | None = None
        self._is_sharded = shard is not None
        if shard is not None:
            shard(processes)
        elif processes.world_size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # newer torch calls `broadcast_buffers` by another name
                self._ddp = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def __call__(self, batch: Any) -> Any:
        return (self._ddp or self.model)(batch)

    @contextlib.contextmanager
    def gradients(self, *, is_last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: only after the last one of a step are gradients exchanged."""
        if self._ddp is not None and not is_last:
            with self._ddp.no_sync():
                yield
            return
        if self._is_sharded:
            self.model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
        yield

    def settle(self) -> None:
        """After a forward pass that no backward pass follows: weights that came together for it are shared out again.

        Until then `named_parameters` are not those that the optimiser knows.
        """
        if self._is_sharded:
            self.model.reshard()  # type: ignore[operator]


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be shared out, on the CPU. All processes must ask for the same ones in the same order."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The state of AdamW by KIND/NAME, whole and on the CPU. Weights that never had a gradient have none yet: zeros."""
    result = {}
    for name, parameter in trained_parameters(model).items():
        state = optimiser.state.get(parameter) or _empty_state(parameter)
        for kind in OPTIMISER_STATE:
            result[f"{kind}/{name}"] = whole(state[kind])
    return result


def put_optimiser_tensors(optimiser: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimiser_tensors`."""
    for name, parameter in trained_parameters(model).items():
        state = {}
        for kind in OPTIMISER_STATE:
            value = tensors[f"{kind}/{name}"]
            if kind == "step":
                # The fused optimiser counts on the device, the others on the CPU.
                state[kind] = value.to(parameter.device if optimiser.defaults.get("fused") else "cpu", torch.float32)
            elif isinstance(parameter, DTensor):
                state[kind] = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
            else:
                state[kind] = value.to(parameter.device, parameter.dtype)
        optimiser.state[parameter] = state


def _empty_state(parameter: nn.Parameter) -> dict[str, Tensor]:
    return {"exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter), "step": torch.zeros(())}
