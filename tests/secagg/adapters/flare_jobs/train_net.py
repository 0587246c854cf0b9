"""A script of FLARE's Client API for PyTorch, as in its hello-pt. It knows nothing of sums."""

import nvflare.client as flare
import torch
from net import Net

flare.init()
site = int(flare.get_site_name().split("-")[-1])
inputs = torch.sin(torch.arange(90.0).reshape(30, 3) + site)
outputs = inputs.sum(1, keepdim=True)
net = Net()
while flare.is_running():
    received = flare.receive()
    net.load_state_dict(received.params)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(inputs), outputs)
        loss.backward()
        optimizer.step()
    flare.send(
        flare.FLModel(
            params=net.state_dict(),
            metrics={"loss": loss.item()},
            meta={"NUM_STEPS_CURRENT_ROUND": site},
        )
    )
