"""The two models: a GPT-2 of 11.5 million parameters from scratch, and SmolLM2-135M with LoRA."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from plays import IGNORED, Encode
from torch import Tensor, nn
from torch.nn import functional

from secagg.training.lora import train_factor

GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


class Speech(nn.Module):
    """A model of transformers, from tokens alone to the scores of those that follow."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self._tokenizer = [tokenizer]  # in a list: it is no module, and copies of us share it

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits

    @property
    def encode(self) -> Encode:
        """Text to tokens."""
        (tokenizer,) = self._tokenizer
        return lambda text: list(_ids(tokenizer, text))

    def goes_on(self, prompt: str, tokens: int) -> str:
        """What it says after ``prompt``, the likeliest token each time."""
        (tokenizer,) = self._tokenizer
        ids = self.encode(prompt)
        self.eval()
        with torch.no_grad():
            for _ in range(tokens):
                ids.append(int(self(torch.tensor([ids[-64:]]))[0, -1].argmax()))
        return str(tokenizer.decode(ids))


def _ids(tokenizer: Any, text: str) -> list[int]:
    made = tokenizer.encode(text)
    return list(getattr(made, "ids", made))


def scratch(public: Sequence[str], *, layers: int, width: int, words: int, length: int) -> Speech:
    """GPT-2's architecture, drawn at random, over pieces of words that public text is made of."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    _quiet()
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(public, vocab_size=words, show_progress=False)
    config = GPT2Config(
        vocab_size=words,
        n_positions=length,
        n_embd=width,
        n_layer=layers,
        n_head=max(1, width // 64),
        bos_token_id=0,
        eos_token_id=0,
        # A dropout would make twins of a run unlike.
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    )
    return Speech(GPT2LMHeadModel(config), tokenizer)


def pretrained(folder: Path, rank: int) -> Speech:
    """SmolLM2-135M, of which LoRA's B on query and value is trained: what is linear in a sum."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _quiet()
    whole = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(whole, lora)
    train_factor(model)
    return Speech(model, tokenizer)


def _quiet() -> None:
    from transformers.utils import logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy of each window's tokens, shape (n,); padding counts for nothing."""
    each = functional.cross_entropy(
        outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    ).reshape(targets.shape)
    return each.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)


def perplexity(model: nn.Module, data: tuple[Tensor, Tensor], at_once: int = 16) -> float:
    """Of the tokens of windows that trained nobody."""
    inputs, targets = data
    model.eval()
    total = 0.0
    with torch.no_grad():
        for part, wanted in zip(inputs.split(at_once), targets.split(at_once), strict=True):
            total += float(
                functional.cross_entropy(
                    model(part).flatten(0, 1),
                    wanted.flatten(),
                    ignore_index=IGNORED,
                    reduction="sum",
                )
            )
    return math.exp(total / int((targets != IGNORED).sum()))
