"""A sum of embedding gradients gives away words: most rows that were touched are one client's.

Nobody lies and nothing is broken: in a correct secure sum the row of a word that one client alone
used is that client's own gradient, in clear, and that the row moved says that somebody used the
word. Freezing the embedding, as LoRA does, takes the rows out of the sum; noise bounds them.
"""

import numpy as np
import pytest
import torch
from torch import nn

import secagg

WORDS, WIDTH, CLIENTS = 400, 8, 10


class Tagger(nn.Module):
    def __init__(self, *, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.embedding.requires_grad_(not frozen)
        self.out = nn.Linear(WIDTH, 3)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(words).mean(1))


def said_by(client: int) -> np.ndarray:
    """Words as people use them: a few by all, most by few (Zipf's law)."""
    rng = np.random.default_rng(client)
    frequency = 1 / np.arange(1, WORDS + 1)
    return rng.choice(WORDS, (6, 10), p=frequency / frequency.sum())


def gradients(client: int, *, frozen: bool) -> dict[str, torch.Tensor]:
    model = Tagger(frozen=frozen)
    words = torch.from_numpy(said_by(client))
    labels = torch.from_numpy(np.random.default_rng(client).integers(0, 3, len(words)))
    nn.functional.cross_entropy(model(words), labels).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def summed(*, frozen: bool) -> dict[str, np.ndarray]:
    updates = [gradients(client, frozen=frozen) for client in range(CLIENTS)]
    found = secagg.aggregate(updates, clip=1.0)
    return {name: CLIENTS * np.asarray(mean) for name, mean in found.mean.items()}


@pytest.fixture(scope="module")
def users() -> list[set[int]]:
    """Who used each word; the attacker does not know it."""
    found: list[set[int]] = [set() for _ in range(WORDS)]
    for client in range(CLIENTS):
        for word in said_by(client).reshape(-1):
            found[word].add(client)
    return found


def test_a_correct_sum_says_which_words_were_used_and_gives_one_clients_rows_in_clear(
    users: list[set[int]],
) -> None:
    rows = summed(frozen=False)["embedding.weight"]
    step = 2 * CLIENTS / 2**15  # what rounding adds at most, of all clients together
    touched = {word for word in range(WORDS) if np.abs(rows[word]).max() > step}
    assert touched
    assert all(users[word] for word in touched)  # a row that moved is a word that was used
    alone = [word for word in touched if len(users[word]) == 1]
    assert len(alone) / len(touched) > 0.4
    for word in alone:
        (client,) = users[word]
        own = gradients(client, frozen=False)["embedding.weight"][word].numpy()
        assert np.abs(rows[word] - own).max() <= step


def test_with_the_embedding_frozen_no_row_is_in_the_sum() -> None:
    assert set(summed(frozen=True)) == {"out.weight", "out.bias"}
