"""What ranks do in tests of ``secagg.adapters.torch_distributed``; run by ``ranks.run``."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ranks import attempt, batch, net
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from dp.accounting import Unit, epsilon_rdp
from dp.ledger import Budget, Ledger
from dp.noise import DistributedNoise
from protocols import wire
from protocols.primitives.prg import Suite
from protocols.testing import insecure_identities
from protocols.zero_sharing import Flag
from secagg.adapters.torch_distributed import (
    SecureGroup,
    secure_all_reduce,
    secure_ddp,
    secure_fsdp,
    secure_houses,
)
from secagg.adapters.torch_private import PrivateRanks
from secagg.adapters.torch_words import CannotTakePart
from secagg.nodes.identities import Identity, Roster, sign_roster

RATE = 0.1
KEYS = insecure_identities(range(4))
Losses = list[float]


def train(
    model: nn.Module, rank: int, steps: int, *, before: Callable[[int], Any] = lambda step: None
) -> Losses:
    inputs, targets = batch(rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    losses = []
    for step in range(steps):
        before(step)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Sums


def sums(rank: int) -> dict[str, Any]:
    group = SecureGroup(clip=1.0)
    made = torch.linspace(-1, 1, 1001) * (rank + 1) / 4
    found: dict[str, Any] = {"bits": group.codec.bits}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        found[name] = secure_all_reduce(made.to(dtype, copy=True), group)
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        found[name] = secure_all_reduce(made.to(dtype, copy=True), group, average=True)
    found["strided"] = secure_all_reduce(made.repeat_interleave(2)[::2], group)
    found["matrix"] = secure_all_reduce(made[:1000].reshape(10, 100).clone(), group)
    found["one"] = secure_all_reduce(made[:1].clone(), group)
    finer = SecureGroup(clip=1.0, lanes=2)
    found["two lanes"] = secure_all_reduce(made.double(), finer)
    random = SecureGroup(clip=1.0, rounding="stochastic")
    found["stochastic"] = secure_all_reduce(made.double(), random)
    found["words"] = group.sum_words(np.full(5, 2**63 + rank, np.uint64))
    pair = dist.new_group([0, 1] if rank < 2 else [2, 3], use_local_synchronization=True)
    found["pair"] = secure_all_reduce(made.clone(), SecureGroup(pair, clip=1.0, pair=True))
    return found


def as_on_a_device(rank: int, steps: int) -> dict[str, Any]:
    """Every other rank makes and reads words as where a tensor lies, which here is a CPU."""
    made = torch.linspace(-1, 1, 1001) * (rank + 1) / 4
    types = (torch.float32, torch.float64, torch.bfloat16)

    def all_of(group: SecureGroup) -> list[Tensor]:
        return [secure_all_reduce(made.to(dtype, copy=True), group) for dtype in types]

    found: dict[str, Any] = {"here": all_of(SecureGroup(clip=1.0))}
    if rank % 2:
        SecureGroup._stays = staticmethod(lambda source: True)  # type: ignore[method-assign]
    for suite in Suite:
        found[suite.name] = all_of(group := SecureGroup(clip=1.0, suite=suite))
    found["strided"] = secure_all_reduce(made.repeat_interleave(2)[::2], group)
    random = SecureGroup(clip=1.0, rounding="stochastic")
    found["stochastic"] = secure_all_reduce(made.double(), random)
    for name, train in (("ddp", ddp_plain_and_secure), ("fsdp", fsdp_plain_and_secure)):
        found[name] = train(rank, steps)
    bad = torch.full((9,), torch.nan if rank == 1 else 0.5)
    found["nan"] = attempt(lambda: secure_all_reduce(bad, group))
    group.renew()
    beyond = torch.full((9,), 1.5 if rank == 1 else 0.5)
    found["beyond"] = attempt(lambda: secure_all_reduce(beyond, group))
    return found


def contexts(rank: int) -> tuple[str, str]:
    """Of the keys of a start, and of those that follow."""
    group = SecureGroup(clip=1.0)
    first = group._epoch.context.digest.hex()
    group.renew()
    return first, group._epoch.context.digest.hex()


# Models


def ddp_plain_and_secure(rank: int, steps: int) -> dict[str, Losses]:
    found = {"plain": train(DistributedDataParallel(net()), rank, steps)}
    for name, cap in (("secure", 25.0), ("small buckets", 0.005)):
        model = DistributedDataParallel(net(), bucket_cap_mb=cap)
        secure_ddp(model, clip=1.0)
        found[name] = train(model, rank, steps)
    return found


def sharded(mesh: Any, **how: Any) -> nn.Module:
    model = net()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh, **how)
    return fully_shard(model, mesh=mesh, **how)


def fsdp_plain_and_secure(rank: int, steps: int) -> dict[str, Losses]:
    mesh = init_device_mesh("cpu", (4,))
    found = {"plain": train(sharded(mesh), rank, steps)}
    model = sharded(mesh)
    secure_fsdp(model, clip=1.0)
    return found | {"secure": train(model, rank, steps)}


def houses_plain_and_secure(rank: int, steps: int) -> dict[str, Losses]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("house", "shard"))
    found = {"plain": train(sharded(mesh), rank, steps)}
    model = sharded(mesh["shard"])
    secure_houses(model, mesh["house"].get_group(), clip=1.0, pair=True)
    return found | {"secure": train(model, rank, steps)}


def accumulated(rank: int) -> dict[str, list[Tensor]]:
    """Gradients of three passes, the first two under ``no_sync``."""
    found = {}
    for name in ("plain", "secure"):
        model = DistributedDataParallel(net())
        if name == "secure":
            secure_ddp(model, clip=2.0)
        inputs, targets = batch(rank)
        for part in range(3):
            with model.no_sync() if part < 2 else nullcontext():
                nn.functional.cross_entropy(model(inputs + part), targets).backward()
        found[name] = [parameter.grad for parameter in model.parameters()]
    return found


def accumulated_in_shards(rank: int) -> dict[str, list[Tensor]]:
    """As ``accumulated``, under FSDP2 and across houses."""
    found = {}
    for name in ("plain", "fsdp", "houses"):
        groups: list[SecureGroup] = []
        mesh = init_device_mesh("cpu", (4,))
        model = sharded(mesh) if name == "plain" else made_model(name, groups)
        for group in groups:
            group.renew(clip=2.0)
        inputs, targets = batch(rank)
        for part in range(3):
            model.set_requires_gradient_sync(part == 2)  # type: ignore[operator]
            nn.functional.cross_entropy(model(inputs + part), targets).backward()
        found[name] = [parameter.grad.full_tensor() for parameter in model.parameters()]
    return found


class Forked(nn.Module):
    """A model of which every rank uses another part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))

    def forward(self, inputs: Tensor, part: int) -> Tensor:
        return self.parts[part](inputs)


def unused_parameters(rank: int) -> dict[str, list[Tensor]]:
    found = {}
    for name in ("plain", "secure"):
        model = DistributedDataParallel(Forked(), find_unused_parameters=True)
        if name == "secure":
            secure_ddp(model, clip=1.0)
        inputs, targets = batch(rank)
        nn.functional.cross_entropy(model(inputs, rank % 2), targets).backward()
        found[name] = [parameter.grad for parameter in model.parameters()]
    return found


def two_models(rank: int) -> list[Losses]:
    """Two models, and two groups of ranks, in turn."""
    pair = dist.new_group([0, 1] if rank < 2 else [2, 3], use_local_synchronization=True)
    models = [DistributedDataParallel(net()), DistributedDataParallel(net(1), process_group=pair)]
    for model in models:
        secure_ddp(model, clip=1.0, pair=True)
    losses: list[Losses] = [[], []]
    for _ in range(3):
        for place, model in enumerate(models):
            losses[place] += train(model, rank, 1)
    return losses


def mixed_precision(rank: int) -> dict[str, Any]:
    """A scaled loss under DDP, bfloat16 under FSDP2."""
    inputs, targets = batch(rank)
    found: dict[str, Any] = {}
    for name in ("plain", "secure"):
        model = DistributedDataParallel(net())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        if name == "secure":
            secure_ddp(model, clip=1.0, scaler=scaler)
        optimizer = torch.optim.SGD(model.parameters(), RATE)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        found[name] = losses
    mesh = init_device_mesh("cpu", (4,))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found["fsdp plain"] = train(sharded(mesh, mp_policy=policy), rank, 5)
    model = sharded(mesh, mp_policy=policy)
    secure_fsdp(model, clip=1.0)
    found["fsdp secure"] = train(model, rank, 5)
    return found


# What goes wrong


def weights(optimizer: torch.optim.Optimizer) -> Tensor:
    """All parameters of this rank, as the optimizer has them."""
    held = optimizer.param_groups[0]["params"]
    local = [each.to_local() if isinstance(each, DTensor) else each for each in held]
    return torch.cat([each.detach().reshape(-1).clone() for each in local])


def made_model(kind: str, group: list[SecureGroup]) -> nn.Module:
    model: nn.Module
    if kind == "ddp":
        model = DistributedDataParallel(net(), bucket_cap_mb=0.005)
        group.append(secure_ddp(model, clip=1.0))
    elif kind == "ddp static":  # the first pass reduces in a callback at its end
        model = DistributedDataParallel(net(), static_graph=True, gradient_as_bucket_view=True)
        group.append(secure_ddp(model, clip=1.0))
    elif kind == "fsdp whole":  # one group, reduced in a callback at the end of a pass
        model = fully_shard(net(), mesh=init_device_mesh("cpu", (4,)))
        group.append(secure_fsdp(model, clip=1.0))
    elif kind == "houses whole":
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("house", "shard"))
        model = fully_shard(net(), mesh=mesh["shard"])
        group.append(secure_houses(model, mesh["house"].get_group(), clip=1.0, pair=True))
    elif kind == "fsdp":
        model = sharded(init_device_mesh("cpu", (4,)))
        group.append(secure_fsdp(model, clip=1.0))
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("house", "shard"))
        model = sharded(mesh["shard"])
        group.append(secure_houses(model, mesh["house"].get_group(), clip=1.0, pair=True))
    return model


def out_of_range(*_: Any) -> None:
    raise CannotTakePart(Flag.OUT_OF_RANGE)


def goes_wrong(rank: int, kind: str, fault: str, steps: Iterable[int]) -> list[Any]:
    """At each of ``steps`` rank 1 goes wrong; what this rank raises, and whether it moved.

    After what is no lost rank all renew their keys and repeat the step in good order.
    """
    group: list[SecureGroup] = []
    model = made_model(kind, group)
    inputs, targets = batch(rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    found: list[Any] = []

    def step(bad: str) -> None:
        optimizer.zero_grad()
        if bad == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if bad == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if bad == "overflow":
            loss = loss * 1e6
        if bad == "one shard":  # only ranks that hold the same shard see the flag
            group[0]._scaled = out_of_range  # type: ignore[method-assign]
        if bad == "nan":
            loss = loss * float("nan")
        try:
            loss.backward()
        finally:
            vars(group[0]).pop("_scaled", None)
        optimizer.step()

    last = max(steps)
    for number in range(last + 2):
        if number in set(steps):
            before = weights(optimizer)
            raised = attempt(lambda: step(fault if rank == 1 else ""))
            found.append((*raised, bool((weights(optimizer) == before).all())))
            if fault in ("stop", "kill"):
                return found
            again = attempt(group[0].renew)[0]
            assert again == "", again
        step("")
    return [*found, weights(optimizer)]


def signed(members: Iterable[int], serial: int = 1) -> Roster:
    """A roster of these ranks; every process makes the same."""
    operator = Identity("operator", insecure_identities([99])[99])
    named = {each: (f"rank-{each}", key.public) for each, key in KEYS.items() if each in members}
    data = sign_roster(operator, named, serial=serial)
    return Roster.read(data, operator=operator.key.public)


def identity(rank: int) -> Identity:
    return Identity(f"rank-{rank}", KEYS[rank])


def signed_sums(rank: int) -> dict[str, Any]:
    """Sums under signed keys, of all ranks and of some, and what is refused."""
    mine, roster = identity(rank), signed(range(4))
    group = SecureGroup(clip=1.0, identity=mine, roster=roster)
    tensor = secure_all_reduce(torch.full((5,), 0.25), group)
    found: dict[str, Any] = {"all": float(tensor[0])}
    pair = dist.new_group([0, 1] if rank < 2 else [2, 3], use_local_synchronization=True)
    some = SecureGroup(pair, clip=1.0, identity=mine, roster=roster, pair=True)
    found["pair"] = float(secure_all_reduce(torch.full((5,), 0.25), some)[0])
    found["half"] = attempt(lambda: SecureGroup(clip=1.0, identity=mine))[:2]
    found["absent"] = attempt(
        lambda: SecureGroup(clip=1.0, identity=mine, roster=signed(range(3)))
    )[:2]
    other = signed(range(4), serial=2) if rank == 2 else roster
    found["other"] = attempt(lambda: SecureGroup(clip=1.0, identity=mine, roster=other))[0]
    thief = identity(1 if rank == 2 else rank)
    found["thief"] = attempt(lambda: SecureGroup(clip=1.0, identity=thief, roster=roster))[0]
    return found


def agrees_wrongly(rank: int, fault: str, steps: int) -> list[Any]:
    """Before each step keys are renewed, and rank 1 is of another version or roster."""
    roster = signed(range(4))
    model = DistributedDataParallel(net())
    group = secure_ddp(model, clip=1.0, identity=identity(rank), roster=roster)
    inputs, targets = batch(rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    found: list[Any] = []
    for _ in range(steps):
        if rank == 1 and fault == "version":
            wire.VERSION = 7  # type: ignore[misc]
        if rank == 1 and fault == "roster":
            group._roster = signed(range(4), serial=2)
        before = weights(optimizer)
        raised = attempt(group.renew)
        inner = nn.functional.cross_entropy(model(inputs), targets)
        spent = attempt(inner.backward)[0]  # whoever goes on with spent keys
        found.append((*raised, spent, bool((weights(optimizer) == before).all())))
        wire.VERSION, group._roster = 1, roster  # type: ignore[misc]
        group.renew()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return [*found, weights(optimizer)]


def swallowed(rank: int) -> bool:
    """Whether somebody who goes on after an error trains on NaN."""
    model = DistributedDataParallel(net(), bucket_cap_mb=0.005)
    secure_ddp(model, clip=1.0)
    inputs, targets = batch(rank)
    loss = nn.functional.cross_entropy(model(inputs), targets) * (1e6 if rank == 1 else 1)
    assert attempt(loss.backward)[0] == "RankFailed"
    return all(bool(each.grad.isnan().all()) for each in model.parameters())


def spent_keys(rank: int) -> list[str]:
    """What calls after an error raise, and after keys were renewed."""
    group = SecureGroup(clip=1.0)
    tensor = torch.full((10,), 9.0 if rank == 2 else 0.5)
    before = tensor.clone()
    found = [attempt(lambda: secure_all_reduce(tensor, group))[0]]
    assert (tensor == before).all()
    found.append(attempt(lambda: secure_all_reduce(tensor, group))[0])
    found.append(attempt(lambda: group.sum_words(np.zeros(3, np.uint64)))[0])
    group.renew(clip=16.0)
    found.append(attempt(lambda: secure_all_reduce(tensor, group))[0])
    return [*found, str(round(float(tensor[0]), 2))]


def fails_inside(rank: int) -> tuple[str, str, str]:
    """A rank whose own work fails: its cause is told to it alone."""
    group = SecureGroup(clip=1.0)
    if rank == 3:

        def encode(*_: Any) -> None:
            raise MemoryError("a secret of rank 3")

        group._scaled = encode  # type: ignore[method-assign]
    try:
        secure_all_reduce(torch.zeros(10), group)
    except Exception as error:  # noqa: BLE001
        return type(error).__name__, str(error), type(error.__cause__).__name__
    return "", "", ""


def disagrees(rank: int, how: dict[str, Any]) -> tuple[str, str, float]:
    """Rank 2 agrees to something else."""
    other = how if rank == 2 else {}
    return attempt(lambda: SecureGroup(**({"clip": 1.0} | other)))


def other_version(rank: int) -> tuple[str, str, float]:
    if rank == 2:
        wire.VERSION = 7  # type: ignore[misc]
    return attempt(lambda: SecureGroup(clip=1.0))


def other_weights(rank: int) -> tuple[str, str, float]:
    """Rank 2's parameters are another model's once keys are renewed."""
    model = DistributedDataParallel(net())
    group = secure_ddp(model, clip=1.0)
    if rank == 2:
        with torch.no_grad():
            next(model.parameters()).add_(1)
    return attempt(group.renew)


def after_a_fork(rank: int) -> str:
    group = SecureGroup(clip=1.0)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, attempt(lambda: secure_all_reduce(torch.zeros(3), group))[1].encode())
        os._exit(0)
    os.waitpid(child, 0)
    return os.read(reader, 1000).decode()


def timeouts(rank: int) -> list[str]:
    from datetime import timedelta

    backend = dist.group.WORLD._get_backend(torch.device("cpu"))
    found = [str(backend.options._timeout)]
    SecureGroup(clip=1.0)
    found.append(str(backend.options._timeout))
    SecureGroup(clip=1.0, timeout=timedelta(seconds=3))
    return [*found, str(backend.options._timeout)]


def refused(rank: int) -> dict[str, tuple[str, str, float]]:
    """What is refused before a key is agreed."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("house", "shard"))
    house, normed = mesh["house"].get_group(), nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(4)))
    half = sharded(mesh["shard"])
    part = nn.Sequential(fully_shard(nn.Linear(4, 4), mesh=init_device_mesh("cpu", (4,))))
    part.append(nn.Linear(4, 4))

    def ddp(module: nn.Module, **how: Any) -> DistributedDataParallel:
        return DistributedDataParallel(module, **how)

    return {
        name: attempt(call)
        for name, call in {
            "buffers": lambda: secure_ddp(ddp(normed), clip=1.0),
            "statistics": lambda: secure_fsdp(synced, clip=1.0),
            "not sharded": lambda: secure_fsdp(net(), clip=1.0),
            "in part": lambda: secure_fsdp(part, clip=1.0),
            "two dimensions": lambda: secure_fsdp(sharded(mesh), clip=1.0),
            "other ranks": lambda: secure_fsdp(half, clip=1.0, group=house, pair=True),
            "one house": lambda: secure_houses(half, mesh["shard"].get_group(), clip=1.0),
            "two": lambda: SecureGroup(house, clip=1.0),
            "bits": lambda: SecureGroup(clip=1.0, bits=20),
            "lanes": lambda: SecureGroup(clip=1.0, lanes=9),
            "integers": lambda: secure_all_reduce(
                torch.zeros(3, dtype=torch.int64), SecureGroup(clip=1.0)
            ),
            "empty": lambda: secure_all_reduce(torch.zeros(0), SecureGroup(clip=1.0)),
        }.items()
    }


def waits(rank: int, seconds: float) -> str:
    """A rank that is only slow is waited for."""
    group = SecureGroup(clip=1.0)
    if rank == 1:
        time.sleep(seconds)
    return attempt(lambda: secure_all_reduce(torch.zeros(3), group))[0]


def handed_another_total(rank: int, kind: str, rule: str) -> list[Any]:
    """After the second step rank 1 was handed another total than the rest; two more steps.

    rule: ``kept``, or ``removed``: no total is in the masks of later sums.
    """
    groups: list[SecureGroup] = []
    model = made_model(kind, groups)
    (group,) = groups
    if rule == "removed":
        mask = group._mask

        def unbound(*given: Any, **how: Any) -> Any:
            group._after = 0
            return mask(*given, **how)

        group._mask = unbound  # type: ignore[method-assign]
    inputs, targets = batch(rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    found: list[Any] = []
    for step in range(4):
        if step == 1 and rank == 1:
            opened = group._open

            def lied_to(running: Any, total: Tensor, out: Tensor, opened: Any = opened) -> None:
                total[:-2] += 2**20  # as a neighbour in the ring could
                opened(running, total, out)

            group._open = lied_to  # type: ignore[method-assign]
        optimizer.zero_grad()
        raised = attempt(nn.functional.cross_entropy(model(inputs), targets).backward)
        found.append(raised[0])
        if raised[0]:
            return found
        vars(group).pop("_open", None)
        optimizer.step()
    return [*found, weights(optimizer)]


def hook_without_value(rank: int, kind: str) -> list[Any]:
    """Rank 2 goes before the third step; what the others have after it.

    kind: ``bare``, a hook that sums words as they are; ``unlooked``, ours with its look at the
    future removed; ``ours``.
    """
    model = DistributedDataParallel(net())
    if kind == "bare":

        def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch wants its own types or none
            buffer = bucket.buffer()
            words = (buffer * 2**18).to(torch.int64)
            future = dist.all_reduce(words, async_op=True).get_future()
            return future.then(lambda _: buffer.copy_(words / 2**18 / 4))  # never value()

        model.register_comm_hook(None, hook)
    else:
        group = secure_ddp(model, clip=1.0)
        if kind == "unlooked":

            def blind(collective: Callable[[], Any]) -> Any:
                try:
                    return collective()
                except RuntimeError:
                    return None

            group._transport = blind  # type: ignore[method-assign]
    inputs, targets = batch(rank)
    optimizer = torch.optim.SGD(model.parameters(), RATE)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    for _ in range(2):  # before the second, DDP agrees on its buckets
        step()
    dist.barrier()
    if rank == 2:
        os._exit(0)
    time.sleep(1)
    before = weights(optimizer)
    raised = attempt(step)
    return [*raised, bool((weights(optimizer) == before).all()), weights(optimizer)]


def private(rank: int, folder: str) -> dict[str, Any]:
    """Two private trainings of three steps, and one step with next to no noise."""
    inputs, targets = batch(rank)

    def losses(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    def made(name: str, *, noise: float, rate: float) -> tuple[nn.Module, PrivateRanks, Ledger]:
        torch.manual_seed(0)
        model = nn.Linear(16, 4)
        budget = Budget(epsilon=1e9 if noise < 1 else 8.0, delta=1e-5)
        ledger = Ledger.create(f"{folder}/{name}-{rank}.ledger", budget)
        planned = DistributedNoise(
            entries=68,
            clip=1.0,
            noise_multiplier=noise,
            clients=4,
            minimum_survivors=4,
            bits=32,
            unit=Unit.EXAMPLE,
            batch=8,
        )
        ranks = PrivateRanks(
            model,
            inputs,
            targets,
            losses,
            noise=planned,
            sampling_rate=rate,
            ledger=ledger,
            subject="examples",
        )
        return model, ranks, ledger

    found: dict[str, Any] = {}
    for name in ("one", "other"):
        model, ranks, ledger = made(name, noise=2.0, rate=0.5)
        for _ in range(3):
            ranks.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= RATE * parameter.grad
        found[name] = torch.cat([each.detach().reshape(-1) for each in model.parameters()])
    found["epsilon"] = ledger.epsilons("rdp")["examples"]
    found["expected"] = epsilon_rdp([(ranks.event, 3)], delta=1e-5)
    found["batch"] = ranks.expected_batch
    model, ranks, _ = made("quiet", noise=0.05, rate=1.0)
    ranks.backward()
    found["gradient"] = torch.cat([each.grad.reshape(-1) for each in model.parameters()])
    total = torch.zeros(68)
    for place in range(4):
        for example, target in zip(*batch(place), strict=True):
            model.zero_grad()
            losses(model(example[None]), target[None]).sum().backward()
            own = torch.cat([each.grad.reshape(-1) for each in model.parameters()])
            total += own / max(1.0, float(own.norm()))
    found["true"] = total / 32
    found["planned for others"] = attempt(
        lambda: made_for(3, model, inputs, targets, losses, folder)
    )
    return found


def made_for(clients: int, *given: Any) -> None:
    *given_, folder = given
    noise = DistributedNoise(
        entries=68,
        clip=1.0,
        noise_multiplier=2.0,
        clients=clients,
        minimum_survivors=clients,
        bits=32,
        unit=Unit.EXAMPLE,
        batch=8,
    )
    ledger = Ledger.open(f"{folder}/one-{dist.get_rank()}.ledger")
    PrivateRanks(*given_, noise=noise, sampling_rate=0.5, ledger=ledger, subject="examples")
