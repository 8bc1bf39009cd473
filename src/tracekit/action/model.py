"""The action expert: what a frozen μ0 sees and foresees, the gripper's camera, proprioception and a sentence to a chunk of actions
(paper 3.4, B.4).

tau = 0 is noise, tau = 1 is data (Eq. 12): the opposite of μ0's own flow time (Eq. 6). Shape letters: see `tracekit.action.batch`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tracekit.action.batch import ActionBatch, Features
from tracekit.action.config import ActionConfig
from tracekit.action.expert import ActionTransformer, Memory
from tracekit.action.flow import euler, noisy_actions
from tracekit.action.fusion import GatedFusion
from tracekit.action.gripper import GripperTokens


class ActionExpert(nn.Module):
    """Everything that is trained. μ0 stands beside it (`tracekit.action.frozen`), and has done its work when a batch comes here."""

    def __init__(self, config: ActionConfig, vlm_width: int, trace_width: int, gripper_width: int) -> None:
        """The widths are those of μ0's features: W, E and C."""
        super().__init__()
        config.check()
        self.config = config
        self.fusion = GatedFusion(vlm_width, trace_width, config.fusion_heads, config.gate_init) if config.use_trace else None
        self.vlm_tokens = nn.Sequential(nn.LayerNorm(vlm_width), nn.Linear(vlm_width, config.width))
        self.word_tokens = nn.Sequential(nn.LayerNorm(vlm_width), nn.Linear(vlm_width, config.width))
        self.gripper = GripperTokens(config, gripper_width) if config.gripper_features != "none" else None
        self.state_token = nn.Sequential(nn.Linear(config.state_size, config.width), nn.SiLU(), nn.Linear(config.width, config.width))
        self.transformer = ActionTransformer(config)
        self.action_in = nn.Linear(config.action_width, config.width)
        self.action_out = nn.Linear(config.width, config.action_width)

    def forward(self, batch: ActionBatch) -> Tensor:
        """Squared errors (B, R, T, A) of the velocity at the batch's own tau and noise (Eq. 12); those of actions that are not valid mean nothing."""
        velocity = self.velocity(noisy_actions(batch), batch.tau, self.read(batch), batch.action_valid)
        return (velocity.float() - (batch.actions[:, None] - batch.noise)).square()

    @torch.no_grad()
    def sample(self, batch: ActionBatch, steps: int | None = None) -> Tensor:
        """Chunks (B, R, T, A), normalised, from the batch's noise by Euler's method; its actions and tau are not looked at."""
        memory = self.read(batch)
        return euler(lambda actions, tau: self.velocity(actions, tau, memory), batch.noise, steps or self.config.sampling_steps)

    def read(self, batch: ActionBatch) -> Memory:
        """All that does not depend on the noise."""
        features = batch.features
        assert features is not None
        guided = self.guided(features)
        parts = [self.vlm_tokens(guided), self.word_tokens(features.words.to(guided.dtype))]
        present = [features.vlm_present, features.words_present]
        if self.gripper is not None:
            parts.append(self.gripper(batch.gripper, features.gripper))
            present.append(features.vlm_present.new_ones(parts[-1].shape[:2]))
        parts.append(self.state_token(batch.state)[:, None])
        present.append(features.vlm_present.new_ones(len(batch), 1))
        return self.transformer.read(torch.cat(parts, dim=1), torch.cat(present, dim=1))

    def guided(self, features: Features) -> Tensor:
        """z_guided (B, L, W), or z itself without traces."""
        z = features.vlm.to(self.action_in.weight.dtype)
        if self.fusion is None:
            return z
        assert features.trace is not None and features.trace_present is not None
        return self.fusion(z, features.trace.to(z.dtype), features.trace_present)

    def velocity(self, actions: Tensor, tau: Tensor, memory: Memory, valid: Tensor | None = None) -> Tensor:
        """v of noisy actions (B, R, T, A) at flow times (B, R): (B, R, T, A). Actions that are not `valid` (B, T) have no influence on others."""
        size, width = self.config.action_size, self.config.action_width
        tokens = self.action_in(F.pad(actions, (0, width - size)).to(self.action_in.weight.dtype))
        return self.action_out(self.transformer(tokens, tau, memory, valid))[..., :size]
