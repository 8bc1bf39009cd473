"""Processes that train one network together: started by torchrun, by srun, or just this one."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tracekit.backends.devices import torch_device
from tracekit.errors import ConfigurationError, TracekitError, UnavailableError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """What one process knows of all. With a single one nothing is sent anywhere."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of everybody's values, the same bits in every process."""
        if self.world_size > 1:
            with _others_may_have_ended():
                dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Everybody's values, in the order of ranks, in every process."""
        if self.world_size == 1:
            return [value]
        result: list[Any] = [None] * self.world_size
        with _others_may_have_ended():
            dist.all_gather_object(result, value)
        return result

    def first_does(self, work: Callable[[], T]) -> T:
        """Let the first process do something, wait for it, and get its result. What it raises, everybody raises."""
        if self.world_size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.is_first:
            try:
                box[0] = work()
            except TracekitError as error:
                box[1] = error
        with _others_may_have_ended():
            dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1]
        return box[0]


@contextlib.contextmanager
def join_processes(device: str) -> Iterator[Processes]:
    """Meet the others that torchrun or srun started; alone when there are none. With CUDA each process takes the GPU of its local rank.

    Raises ConfigurationError when the environment says something impossible.
    """
    place = meeting_place(os.environ)
    chosen = torch_device(device)
    if place is None:
        yield Processes(0, 1, chosen)
        return
    rank, world_size, local_rank, address, port = place
    if chosen.type == "cuda":
        if "SLURM_STEP_ID" in os.environ and torch.cuda.device_count() == 1:
            local_rank = 0  # srun --gpus-per-task=1 shows each process its own GPU alone
        if local_rank >= torch.cuda.device_count():
            raise ConfigurationError(
                f"process {local_rank} of this machine has no GPU: there are {torch.cuda.device_count()}",
                hint="start one process per GPU: torchrun --nproc-per-node=gpu",
            )
        chosen = torch.device("cuda", local_rank)
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo",
        init_method=f"tcp://{address}:{port}",
        rank=rank,
        world_size=world_size,
        device_id=chosen if chosen.type == "cuda" else None,
    )
    try:
        yield Processes(rank, world_size, chosen)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _others_may_have_ended() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UnavailableError(
            f"another process of this training does not answer: {str(error).splitlines()[0]}",
            hint="what happened to it is in its own messages",
        ) from error


def meeting_place(env: Mapping[str, str]) -> tuple[int, int, int, str, int] | None:
    """Rank, number of processes, rank on this machine, and where to meet; None for a process that is alone."""
    try:
        if int(env.get("WORLD_SIZE", "1")) > 1:
            port = int(env.get("MASTER_PORT", "29500"))
            local_rank = int(env.get("LOCAL_RANK", env["RANK"]))
            return int(env["RANK"]), int(env["WORLD_SIZE"]), local_rank, env.get("MASTER_ADDR", "127.0.0.1"), port
        # srun sets these for its tasks alone, not for the batch script around them.
        if "SLURM_STEP_ID" in env and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
            # Two jobs on one machine must not meet each other.
            port = 20_000 + (int(env["SLURM_JOB_ID"]) * 16 + int(env["SLURM_STEP_ID"])) % 40_000
            address = env.get("MASTER_ADDR", first_host(env["SLURM_STEP_NODELIST"]))
            return (
                int(env["SLURM_PROCID"]),
                int(env["SLURM_STEP_NUM_TASKS"]),
                int(env["SLURM_LOCALID"]),
                address,
                int(env.get("MASTER_PORT", port)),
            )
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"the environment of torchrun or srun is not complete: {error}", hint="unset WORLD_SIZE to train alone"
        ) from None
    return None


def first_host(hosts: str) -> str:
    """The first of SLURM's list of hosts: "gpu[003-007,9],cpu1" gives "gpu003"."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+))?", hosts)
    if match is None:
        raise ValueError(f"the list of hosts is {hosts!r}")
    return match[1] + (match[2] or "")
