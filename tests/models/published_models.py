"""Stand-ins, written for these tests, with the signatures of models that people train: what goes in and what comes out.

nanoGPT and llm.c (train_gpt2.py): forward(idx, targets=None) gives (logits, loss), targets.view(-1). nanochat:
forward(idx, targets=None, kv_cache=None, loss_reduction="mean") gives the loss. transformers: forward(input_ids,
labels) gives an object with loss and moves the labels itself. x-transformers: a wrapper called with ids alone. timm:
logits.
"""

from collections import UserDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 32
    vocab_size: int = 300
    n_embd: int = 16


class GPT(nn.Module):
    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def forward(self, idx, targets=None):
        assert idx.size(1) <= self.config.block_size
        logits = self.lm_head(self.wte(idx))
        if targets is None:
            return logits[:, [-1], :], None
        loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits, loss


@dataclass
class NanochatConfig:
    sequence_len: int = 32
    vocab_size: int = 300
    n_embd: int = 16


class NanochatGPT(GPT):
    def __init__(self, config: NanochatConfig) -> None:
        super().__init__(GPTConfig(config.sequence_len, config.vocab_size, config.n_embd))
        self.config = config

    def forward(self, idx, targets=None, kv_cache=None, loss_reduction="mean"):
        assert kv_cache is None
        logits = self.lm_head(self.wte(idx)).float()
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), reduction=loss_reduction)


class LlamaConfig:
    vocab_size, max_position_embeddings = 300, 4096


@dataclass
class CausalOutput:
    loss: torch.Tensor | None
    logits: torch.Tensor


class CausalLM(nn.Module):
    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.body = GPT(GPTConfig(config.max_position_embeddings, config.vocab_size))

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=None, **kwargs):
        assert attention_mask is None or attention_mask.shape == input_ids.shape
        logits = self.body.lm_head(self.body.wte(input_ids))
        if labels is None:
            return CausalOutput(None, logits)
        assert torch.equal(labels, input_ids)
        moved = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].reshape(-1))
        return CausalOutput(moved, logits)


class BatchEncoding(UserDict):
    """As transformers' collators return: no dict, but a mapping."""


class Trainer:
    def __init__(self, model, train_dataset, batch_size=8) -> None:
        self.model, self.train_dataset, self.batch_size = model, train_dataset, batch_size

    def get_train_dataloader(self):
        def collated(rows):
            ids = torch.stack(rows)
            return BatchEncoding(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids.clone())

        return torch.utils.data.DataLoader(self.train_dataset, self.batch_size, collate_fn=collated)


class AutoregressiveWrapper(nn.Module):
    def __init__(self, net: GPT) -> None:
        super().__init__()
        self.net = net

    def forward(self, x, return_outputs=False):
        assert return_outputs is False
        logits = self.net.lm_head(self.net.wte(x[:, :-1]))
        return F.cross_entropy(logits.flatten(0, 1), x[:, 1:].reshape(-1))


class ResNet(nn.Sequential):
    def __init__(self, num_classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
        )


class RNNModel(nn.Module):
    """PyTorch's word_language_model: gives logits and the hidden state."""

    def __init__(self, vocabulary: int = 300, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Embedding(vocabulary, width)
        self.rnn = nn.LSTM(width, width, 2, batch_first=True)
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, tokens, targets):
        output, hidden = self.rnn(self.encoder(tokens))
        return F.cross_entropy(self.decoder(output).view(-1, 300), targets.view(-1)), hidden
