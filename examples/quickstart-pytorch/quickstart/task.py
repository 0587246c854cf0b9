"""A network with batch normalisation, and images of CIFAR-10's shape that are drawn by number."""

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

CLASSES, EXAMPLES = 4, 160  # examples: of one node

Loader = DataLoader[tuple[torch.Tensor, ...]]


class Net(nn.Module):
    """Two convolutions, each normalised, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(16 * 2 * 2, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.features(images))
        return scores


def load_data(partition: int, batch_size: int) -> tuple[Loader, Loader]:
    """Images of one node, to train on and to test on: a colour for each class, under noise."""
    draw = torch.Generator().manual_seed(partition)
    colours = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(2**20))
    labels = torch.randint(CLASSES, (EXAMPLES,), generator=draw)
    images = colours[labels] + torch.randn(EXAMPLES, 3, 32, 32, generator=draw)
    tested = EXAMPLES // 5
    train = TensorDataset(images[tested:], labels[tested:])
    test = TensorDataset(images[:tested], labels[:tested])
    return DataLoader(train, batch_size, shuffle=True, generator=draw), DataLoader(test, batch_size)


def train(net: Net, loader: Loader, epochs: int, learning_rate: float) -> float:
    """Train in place; returns the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=learning_rate, momentum=0.9)
    net.train()
    losses = []
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(net(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def test(net: Net, loader: Loader) -> tuple[float, float]:
    """Mean loss and accuracy."""
    net.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            scores = net(images)
            loss += functional.cross_entropy(scores, labels, reduction="sum").item()
            right += int((scores.argmax(1) == labels).sum())
            count += len(labels)
    return loss / count, right / count
