"""Three companies train one model: each shards it inside, and only their sum is secured.

    torchrun --nproc-per-node 6 examples/houses/train.py

Ranks 0 and 1 are one house, 2 and 3 the next, 4 and 5 the last. Inside a house everything is plain
FSDP2; across houses ``secure_houses`` sums the gradients of each shard, so that none sees
another's. Of two houses each would know the other's: the sum less its own.

All ranks run on one machine here, so their keys are not signed. Between organisations they must be:
docs/ranks.md.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from secagg.adapters.torch_distributed import secure_houses

STEPS, TEST, HOUSES = 60, 360, 3

dist.init_process_group("gloo", timeout=timedelta(seconds=30))
rank, ranks = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (HOUSES, ranks // HOUSES), mesh_dim_names=("house", "shard"))
torch.manual_seed(0)

digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
mine = slice(TEST + rank, None, ranks)

model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=mesh["shard"])
secure_houses(model, mesh["house"].get_group(), clip=1.0)

optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
for _ in range(STEPS):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
    optimizer.step()

with torch.no_grad():  # every rank of a house computes a part of each layer
    right = model(images[:TEST]).argmax(1) == labels[:TEST]
accuracy = right.float().mean()
dist.all_reduce(accuracy, op=dist.ReduceOp.MIN)  # the worst of all houses: they have one model
if rank == 0:
    print(f"{HOUSES} houses, {STEPS} steps: accuracy {accuracy:.3f}")
dist.destroy_process_group()
