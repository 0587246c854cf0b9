"""Four parties train one model among themselves, and none sees another's gradient.

    torchrun --nproc-per-node 4 examples/ddp/train.py

Each rank holds a part of scikit-learn's handwritten digits that nobody else has. Two lines make
their plain ``DistributedDataParallel`` secure: the import, and ``secure_ddp``.

All ranks run on one machine here, so their keys are not signed. Between organisations they must be:
docs/ranks.md.
"""

from datetime import timedelta

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from secagg.adapters.torch_distributed import secure_ddp

STEPS, TEST = 60, 360

dist.init_process_group("gloo", timeout=timedelta(seconds=30))
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)

digits = load_digits()
images = torch.tensor(digits.data / 16, dtype=torch.float32)
labels = torch.tensor(digits.target)
mine = slice(TEST + rank, None, ranks)  # the first 360 images train nobody

model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)))
secure_ddp(model, clip=1.0)

optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
for _ in range(STEPS):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
    optimizer.step()

if rank == 0:
    with torch.no_grad():
        right = model.module(images[:TEST]).argmax(1) == labels[:TEST]
    print(f"{ranks} parties, {STEPS} steps: accuracy {right.float().mean():.3f}")
dist.destroy_process_group()
