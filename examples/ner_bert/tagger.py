"""A BERT that tags words, of which LoRA's B and the classifier are trained."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from scores import Scores, scores
from sentences import TAGS, TYPES, Sentence
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from secagg.training.lora import train_factor

LENGTH: Final = 32  # pieces of a sentence, the marks at its ends among them
IGNORED: Final = -100  # the label of what is no word's first piece
PAD: Final = 0  # BERT's


class Pieces:
    """From words to the pieces of a model's vocabulary."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def short(self, sentence: Sentence) -> bool:
        """Whether it fits, whole."""
        return len(self._tokenizer.encode(sentence[0], is_pretokenized=True).ids) <= LENGTH

    def tensors(self, sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        """Pieces and labels, (n, LENGTH) each. A word's first piece has its label."""
        ids = torch.full((len(sentences), LENGTH), PAD)
        labels = torch.full((len(sentences), LENGTH), IGNORED)
        for row, (words, tags) in enumerate(sentences):
            made = self._tokenizer.encode(words, is_pretokenized=True)
            ids[row, : len(made.ids)] = torch.tensor(made.ids)
            before = None
            for place, word in enumerate(made.word_ids):
                if word is not None and word != before:
                    labels[row, place] = TAGS.index(tags[word])
                before = word
        return ids, labels


class Tagger(nn.Module):
    """From pieces alone to a score for each tag: what is padding follows from the pieces."""

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model
        from transformers import BertConfig, BertForTokenClassification
        from transformers.utils import logging

        # A word of transformers on its own future, which nobody here can act on.
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        logging.set_verbosity_error()  # that the classifier is new is meant
        logging.disable_progress_bar()
        # A dropout would make twins of a run unlike; clipping and noise regularize enough.
        config = BertConfig.from_pretrained(
            folder,
            num_labels=len(TAGS),
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        bert = BertForTokenClassification.from_pretrained(folder, config=config)
        for parameter in bert.bert.parameters():
            parameter.requires_grad_(False)
        lora = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["query", "value"],
            modules_to_save=["classifier"],
        )
        self.bert = get_peft_model(bert, lora)
        train_factor(self.bert)  # B alone: what is trained is linear in it, so that sums are right

    def forward(self, ids: Tensor) -> Tensor:
        there = ids != PAD
        there[:, 0] = True  # an example of zeros must work too
        length = int(there.sum(1).max())
        output = self.bert(
            input_ids=ids[:, :length], attention_mask=there[:, :length].long()
        ).logits
        return functional.pad(output, (0, 0, 0, ids.shape[1] - length))


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean over a sentence's words, one number a sentence."""
    each = functional.cross_entropy(
        outputs.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none"
    )
    return each.sum(1) / (labels != IGNORED).sum(1).clamp_min(1)


def told(outputs: Tensor, labels: Tensor) -> dict[str, Scores]:
    """How good tags are, of those words that have a label."""
    wanted, found = [], []
    for row, guess in zip(labels, outputs.argmax(-1), strict=True):
        kept = row != IGNORED
        wanted.append([TAGS[each] for each in row[kept]])
        found.append([TAGS[each] for each in guess[kept]])
    return scores(wanted, found, TYPES)


def micro_f1(outputs: Tensor, labels: Tensor) -> float:
    """F1 over all entities."""
    return told(outputs, labels)["micro"]["f1"]
