"""What the doubles of VGGT and its kin share: heads whose weights are the answers, in the networks' own convention.

A frame's red value is ten times its place in the scene; green grows from left to right and blue from top to bottom. The double refuses frames
that come in another order of channels, mirrored, cropped, out of 0..1, or in sides that are no whole patches. Every call has another scale, and the
frame of its first camera as its world. Of more frames at once than MOST_FRAMES (in the environment) it runs out of memory.
"""

import os

import torch
from torch import nn

SCALES = (1.0, 3.7, 0.21, 12.5, 0.9)


class Held(nn.Module):
    """Tensors of whatever shape the file of weights gives them."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name in self._buffers:
            if prefix + name in state_dict:
                setattr(self, name, state_dict[prefix + name].clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Eyes(nn.Module):
    """Finds out which frames these are."""

    def __init__(self, patch):
        super().__init__()
        self.patch, self.calls = patch, 0

    def forward(self, images):
        batch, number, channels, height, width = images.shape
        if number > int(os.environ.get("MOST_FRAMES", number)):
            raise torch.OutOfMemoryError("CUDA out of memory")
        assert images.dtype == torch.float32 and batch == 1 and channels == 3
        assert height % self.patch == 0 and width % self.patch == 0
        assert images.min() >= 0 and images.max() <= 1
        red, green, blue = images[0].unbind(1)
        assert red.std(dim=(1, 2)).max() < 1e-3, "the first channel is not red"
        assert green[:, :, 0].max() < 0.03 and green[:, :, -1].min() > 0.97, "green does not grow from edge to edge"
        assert blue[:, 0].max() < 0.03 and blue[:, -1].min() > 0.97, "blue does not grow from edge to edge"
        self.calls += 1
        return {"frames": (red.mean(dim=(1, 2)) * 25.5).round().long(), "scale": SCALES[self.calls % len(SCALES)]}


class CameraHead(Held):
    def __init__(self):
        super().__init__("world_from_camera", "angles")  # (F, 4, 4); (F, 2) vertical, horizontal

    def encoding(self, seen):
        """(1, n, 9): translation and quaternion x, y, z, w of camera_from_world, and the angles of view; the quaternion's length is free."""
        world_from_camera = self.world_from_camera[seen["frames"]]
        camera_from_first = torch.linalg.inv(world_from_camera) @ world_from_camera[0]
        quaternion = torch.stack([_quaternion(rotation) for rotation in camera_from_first[:, :3, :3]])
        translation = seen["scale"] * camera_from_first[:, :3, 3]
        return torch.cat([translation, -1.7 * quaternion, self.angles[seen["frames"]]], dim=-1)[None].float()


class DepthHead(Held):
    def __init__(self):
        super().__init__("depth", "confidence")  # (F, h, w), on the grid that is expected

    def maps(self, seen, images):
        """(1, n, h, w, 1) and (1, n, h, w)."""
        assert images.shape[-2:] == self.depth.shape[-2:], (
            f"the pictures are {tuple(images.shape[-2:])}, not {tuple(self.depth.shape[-2:])}"
        )
        return (seen["scale"] * self.depth[seen["frames"]])[None, ..., None].float(), self.confidence[seen["frames"]][None].float()


def _quaternion(rotation):
    """x, y, z, w of a rotation, from its axis and angle. The angle must be below 180 degrees."""
    if not torch.isfinite(rotation).all():
        return torch.full((4,), torch.nan, dtype=rotation.dtype)
    skew = torch.stack([rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]])
    w = torch.sqrt(1 + torch.trace(rotation)) / 2
    return torch.cat([skew / (4 * w), w[None]])
