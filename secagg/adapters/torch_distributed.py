"""Sums among the ranks of ``torch.distributed`` that show no rank's part: DDP, FSDP2, and by hand.

    from secagg.adapters.torch_distributed import secure_ddp
    secure_ddp(model, clip=1.0)          # model: DistributedDataParallel; then train as before

| call | secured | in the clear |
|---|---|---|
| ``secure_all_reduce(tensor, group)`` | the tensor | whatever else the program sends |
| ``secure_ddp(model)`` | every bucket of gradients | which parameters a rank left unused |
| ``secure_fsdp(model)`` | every reduce-scatter of gradients | parameters, for all to gather |
| ``secure_houses(model, group)`` | the sum across houses | everything inside a house |

Every rank takes part in every sum or nothing comes out. A rank that finds an entry that is not
finite, or beyond ``clip``, takes part with zeros and says so in the sum: all ranks raise
``RankFailed`` alike, at the end of the backward pass. What was not summed is then NaN, so that
nobody who goes on all the same trains on a part. After any error the keys are spent: ``renew()`` on
every rank agrees on new ones, and where a rank is gone all start again.

Entries are multiples of one step, ``clip`` over ``levels``. ``clip`` is a constant of the keys; one
that followed a rank's own gradient would tell of it. Under a ``GradScaler`` the scale is divided
out.

This module is not imported by any other; it needs torch.
"""

import math
from collections.abc import Sequence
from typing import Any

from secagg.extras import missing

try:
    import torch
    import torch.distributed as dist
    from torch import Tensor, nn
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor
    from torch.nn.modules.batchnorm import SyncBatchNorm
    from torch.nn.parallel import DistributedDataParallel
except ModuleNotFoundError as error:
    raise missing("secagg.adapters.torch_distributed", "torch", extra="train") from error

from protocols.errors import RankFailed, RemoteProtocolError
from protocols.zero_sharing import Flag
from secagg.adapters.torch_group import SecureGroup, device_of, shorten
from secagg.errors import InputError, PeerError

__all__ = ["SecureGroup", "secure_all_reduce", "secure_ddp", "secure_fsdp", "secure_houses"]


def secure_all_reduce(tensor: Tensor, group: SecureGroup, *, average: bool = False) -> Tensor:
    """Sum ``tensor`` over the ranks, in place; or their mean.

    After an error ``tensor`` is as it was, and the keys are spent.

    Args:
      group: of the ranks, with keys that no error has spent.
      average: divide by the number of ranks.
      tensor: floats, of the same length on every rank.

    Raises:
      RankFailed: an entry of some rank is not finite, or beyond the clip. All ranks raise it.
      RemoteProtocolError: not exactly the ranks of this group are in the sum.
      PeerError: a rank is gone, or silent for longer than the timeout.
      LocalProtocolError: the keys are spent by an earlier error.
    """
    return group.all_reduce(tensor, average=average)


def secure_ddp(model: DistributedDataParallel, *, clip: float, **how: Any) -> SecureGroup:
    """Secure the gradients of a model, from the next backward pass on.

    Args:
      model: under DDP, without a hook of its own.
      clip: largest magnitude of an entry of one rank's gradient, as it is handed over: of all
        passes that were accumulated under ``no_sync``.
      how: other arguments of ``SecureGroup``.

    Returns:
      The group, for ``renew()`` after an error.

    Raises:
      InputError: something else than gradients would tell of one rank: buffers that are sent around
        before every forward pass, or a layer that sends statistics of its batch.
      RemoteProtocolError, PeerError: as of ``SecureGroup``; a rank's parameters differ, too.
    """
    module = model.module
    if model.broadcast_buffers and any(True for _ in module.buffers()):
        raise InputError(
            "the buffers of rank 0, such as statistics of its batches, are sent to all before each "
            "forward pass: make the model with broadcast_buffers=False, or without buffers"
        )
    _refuse_statistics(module)
    group = SecureGroup(
        model.process_group, clip=clip, parameters=lambda: dict(module.named_parameters()), **how
    )
    # torch asks for annotations of its own, or none.
    model.register_comm_hook(group, lambda state, bucket: state.reduce_bucket(bucket))
    return group


def secure_fsdp(
    model: nn.Module, *, clip: float, group: dist.ProcessGroup | None = None, **how: Any
) -> SecureGroup:
    """Secure the gradients of a model under ``fully_shard``: every reduce-scatter of it.

    Each shard is packed for itself and has a flag and a check word of its own. Parameters are
    gathered in the clear, as all ranks have the model.

    Args:
      model: of which some modules are under ``fully_shard``.
      clip: as of :func:`secure_ddp`.
      group: of the mesh that the model is sharded over; by default all ranks.
      how: other arguments of ``SecureGroup``.

    Raises:
      InputError: no module is under ``fully_shard``, or some are sharded over another mesh than
        this group, over one of several dimensions, or by a function of the parameter.
      RemoteProtocolError, PeerError: as of ``SecureGroup``.
    """
    modules, meshes = _sharded(model)
    secure = SecureGroup(group, clip=clip, public=_names(model), **how)
    for mesh in meshes:
        if dist.get_process_group_ranks(mesh) != secure.members:
            raise InputError("the model is sharded over other ranks than those of this group")
        shorten(mesh, secure.timeout)
    for module in modules:
        _set(module, "set_custom_reduce_scatter", _ReduceScatter(secure))
    return secure


def secure_houses(
    model: nn.Module, group: dist.ProcessGroup, *, clip: float, **how: Any
) -> SecureGroup:
    """Secure the sum across houses of a model that each house shards inside, in the clear.

    Args:
      model: under ``fully_shard`` over the mesh of this house alone, as ``mesh["shard"]``.
      group: of the ranks that hold the same shard in every house, as
        ``mesh["house"].get_group()``.
      clip: largest magnitude of an entry of one house's mean gradient.
      how: other arguments of ``SecureGroup``.

    Raises:
      InputError: as of :func:`secure_fsdp`; or the group has two ranks of one house.
      RemoteProtocolError, PeerError: as of ``SecureGroup``; a shard differs between houses, too.
    """
    modules, (inside, *others) = _sharded(model)
    if others:
        raise InputError(f"the model is sharded over {1 + len(others)} groups of ranks, not one")
    both = map(dist.get_process_group_ranks, (inside, group))
    if len(set.intersection(*map(set, both))) > 1:
        raise InputError("the group has two ranks of one house: give the mesh across houses")
    secure = SecureGroup(
        group, clip=clip, public=_names(model), parameters=lambda: _shards(model), **how
    )
    shorten(inside, secure.timeout)
    told = torch.zeros(len(Flag) + 2, dtype=torch.int64, device=device_of(inside))
    secure.shared = lambda error: _alike(error, told.zero_(), inside, model)

    def across(gradient: Tensor) -> None:
        secure.reduce_whole(gradient)

    for module in modules:
        _set(module, "set_all_reduce_hook", across)
    return secure


def _alike(
    error: Exception | None, told: Tensor, inside: dist.ProcessGroup, model: nn.Module
) -> Exception | None:
    """What some rank of a house raises, all of it raise: each saw the flags of its shard alone."""
    if isinstance(error, RankFailed):
        for flag in Flag:
            told[flag] = error.reasons.get(flag.name, 0)
    elif error is not None:
        told[-1 if isinstance(error, PeerError) else -2] = 1
    try:
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=inside, async_op=True).wait()
    except RuntimeError as lost:
        return error or PeerError(f"a rank of this house is gone, or was silent too long: {lost}")
    *counts, other, gone = told.tolist()
    if error is None and told.any():
        if gone:
            error = PeerError("another rank of this house has lost one: start all ranks again")
        elif other:
            error = RemoteProtocolError("a sum of another shard did not open; nothing is released")
        else:
            error = RankFailed(dict(zip((flag.name for flag in Flag), counts, strict=True)))
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.fill_(math.nan)
    return error


class _ReduceScatter:
    """What ``FSDPModule.set_custom_reduce_scatter`` takes."""

    def __init__(self, secure: SecureGroup) -> None:
        self._secure = secure

    def allocate(self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,  # noqa: FBT001  # as torch calls it
    ) -> None:
        self._secure.reduce_scatter(input_tensor, output_tensor, op)


def _refuse_statistics(module: nn.Module) -> None:
    for name, each in module.named_modules():
        if isinstance(each, SyncBatchNorm):
            raise InputError(f"{name!r} sends statistics of each rank's batch in the clear")


def _sharded(model: nn.Module) -> tuple[list[nn.Module], list[dist.ProcessGroup]]:
    """The modules under ``fully_shard``, and the groups over which their parameters are sharded."""
    _refuse_statistics(model)
    modules: list[nn.Module] = [each for each in model.modules() if isinstance(each, FSDPModule)]
    if not modules:
        raise InputError("no module is under fully_shard")
    meshes: dict[str, dist.ProcessGroup] = {}
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            raise InputError(
                f"parameter {name!r} is not sharded: its gradient would be summed by none"
            )
        if parameter.device_mesh.ndim != 1:
            raise InputError(
                f"parameter {name!r} lies on a mesh of {parameter.device_mesh.ndim} dimensions, of "
                "which one sum would be in the clear: shard over one, and see secure_houses"
            )
        group = parameter.device_mesh.get_group()
        meshes[group.group_name] = group
    return modules, list(meshes.values())


def _set(module: nn.Module, name: str, value: Any) -> None:
    setter = getattr(module, name, None)
    if setter is None:
        raise InputError(f"this torch has no FSDPModule.{name}: 2.13 has it")
    try:
        setter(value)
    except ValueError as error:
        raise InputError(f"parameters of one module are on several meshes: {error}") from None


def _names(model: nn.Module) -> bytes:
    named = ((name, tuple(each.shape), str(each.dtype)) for name, each in model.named_parameters())
    return repr(list(named)).encode()


def _shards(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: each.to_local() if isinstance(each, DTensor) else each
        for name, each in model.named_parameters()
    }
