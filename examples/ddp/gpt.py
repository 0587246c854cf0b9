"""A small GPT, and a text that comes with Python to train it on."""

import re
from collections import Counter

import torch
from torch import Tensor, nn

LAYERS, WIDTH, HEADS = 6, 384, 6
WORDS = 2_000  # in the vocabulary
TOKENS = 128  # of a passage


class Gpt(nn.Module):
    """Six blocks of width 384 over 2,000 words: 11.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Embedding(TOKENS, WIDTH)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Of passages (n, TOKENS) the logits of every next word, (n, TOKENS, WORDS)."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        hidden = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return self.blocks(hidden, mask=mask, is_causal=True) @ self.words.weight.T


def passages() -> tuple[Tensor, Tensor]:
    """Passages of Python's language reference, mixed, and of each the words one further on.

    The rarer words are all one word, number 0.
    """
    from pydoc_data.topics import topics

    words = re.findall(r"\w+|[^\w\s]", " ".join(topics[name] for name in sorted(topics)))
    common = [word for word, _ in Counter(words).most_common(WORDS - 1)]
    numbers = {word: number for number, word in enumerate(common, 1)}
    text = torch.tensor([numbers.get(word, 0) for word in words])
    whole = (len(text) - 1) // TOKENS
    mixed = torch.randperm(whole, generator=torch.Generator().manual_seed(0))
    inputs, targets = (part[: whole * TOKENS].view(whole, -1) for part in (text, text[1:]))
    return inputs[mixed], targets[mixed]
