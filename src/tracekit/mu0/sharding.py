"""How μ0's weights are shared out among processes."""

from __future__ import annotations

import warnings

from tracekit.mu0.model import Mu0
from tracekit.training.processes import Processes


def shard(model: Mu0, processes: Processes) -> None:
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
