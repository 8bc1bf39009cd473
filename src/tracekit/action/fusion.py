"""Motion into what the VLM sees: gated cross-attention (paper B.4, Eq. 11)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.errors import ConfigurationError
from tracekit.mu0.attention import join_heads


class GatedFusion(nn.Module):
    """z_guided = z + sigmoid(g) * CA(Q = LN(z), K = V = LN(W z_trace)).

    g is one number for all heads and positions. At minus infinity the result is z to the last bit.
    """

    def __init__(self, vlm_width: int, trace_width: int, heads: int, gate_init: float) -> None:
        super().__init__()
        if vlm_width % heads:
            raise ConfigurationError(
                f"{vlm_width} numbers of the VLM cannot be shared evenly by {heads} heads", hint="fusion_heads must divide them"
            )
        self.heads = heads
        self.norm = nn.LayerNorm(vlm_width)
        self.trace_proj = nn.Linear(trace_width, vlm_width)
        self.trace_norm = nn.LayerNorm(vlm_width)
        self.q_proj = nn.Linear(vlm_width, vlm_width)
        self.k_proj = nn.Linear(vlm_width, vlm_width)
        self.v_proj = nn.Linear(vlm_width, vlm_width)
        self.o_proj = nn.Linear(vlm_width, vlm_width)
        self.gate = nn.Parameter(torch.tensor(float(gate_init)))

    def forward(self, z: Tensor, trace: Tensor, trace_present: Tensor) -> Tensor:
        """z (B, L, W) guided by motion (B, G, E), of which (B, G) is present: (B, L, W).

        Where no motion is present nothing is added.
        """
        motion = self.trace_norm(self.trace_proj(trace))
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, self.norm(z)), (self.k_proj, motion), (self.v_proj, motion))
        )
        something = trace_present.any(dim=1)
        # A row of attention over nothing would be not a number; it looks at everything instead, and is left out below.
        allowed = trace_present | ~something[:, None]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None, None, :])
        guidance = self.o_proj(join_heads(seen)) * something[:, None, None]
        return z + torch.sigmoid(self.gate) * guidance
