"""The same network in several processes: copied (DDP), or shared out (FSDP2), or just here."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from tracekit.mu0.batch import TraceBatch
from tracekit.mu0.checkpoint import OPTIMISER_STATE
from tracekit.mu0.model import Forecast, Mu0
from tracekit.training.optimiser import trained_parameters
from tracekit.training.processes import Processes


class SharedModel:
    """Mu0 with a forward pass whose gradients are the mean over processes."""

    def __init__(self, model: Mu0, processes: Processes, *, fsdp: bool) -> None:
        self.model = model
        self._ddp: DistributedDataParallel | None = None
        self._is_sharded = fsdp
        if fsdp:
            _shard(model, processes)
        elif processes.world_size > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # newer torch calls `broadcast_buffers` by another name
                self._ddp = DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def __call__(self, batch: TraceBatch) -> Forecast:
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


def _shard(model: Mu0, processes: Processes) -> None:
    """FSDP2 (Zhao et al. 2023) over all processes.

    Shared out one by one are modules that the network calls as such; it walks through the VLM's text layers and the expert's
    attention by hand, so those belong to the whole.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    # Nobody changes the forecast in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view", UserWarning)
    # One process may validate on samples with depth while another has none: both gather the layers equally often.
    model.vlm.always_sees_depth = True
    mesh = init_device_mesh(processes.device.type, (processes.world_size,))
    for layer in [*model.vlm.text.layers, *model.expert.layers]:  # type: ignore[union-attr]
        fully_shard(layer.mlp, mesh=mesh)
    for layer in model.vlm.vision.encoder.layers:  # type: ignore[union-attr]
        fully_shard(layer.mlp, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "sample")


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
