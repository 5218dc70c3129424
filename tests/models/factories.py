"""What a person writes to have a published model trained: a factory of at most six lines each.

The names are those of stand-ins beside this file, so that the tests need no other package. With the real ones only the
import differs: `from model import GPT, GPTConfig` in nanoGPT's folder, `from train_gpt2 import GPT, GPTConfig` in
llm.c's, `from nanochat.gpt import GPT, GPTConfig`, `from transformers import LlamaForCausalLM`, `import timm`.
"""

import torch
from published_models import (
    GPT,
    AutoregressiveWrapper,
    CausalLM,
    GPTConfig,
    LlamaConfig,
    NanochatConfig,
    NanochatGPT,
    ResNet,
    RNNModel,
    Trainer,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def nanogpt():
    return GPT(GPTConfig())


def nanochat():
    return NanochatGPT(NanochatConfig())


def transformers_alone():
    return CausalLM(LlamaConfig())


def transformers_batch():
    def batch(n):
        ids = torch.randint(300, (n, 64))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    return CausalLM(LlamaConfig()), batch


def transformers_trainer():
    return Trainer(CausalLM(LlamaConfig()), torch.randint(300, (50, 64)))


def x_transformers():
    net = AutoregressiveWrapper(GPT(GPTConfig()))
    return net, lambda n: torch.randint(300, (n, 33))


def timm():
    net = ResNet(num_classes=10)
    return net, lambda n: (torch.randn(n, 3, 32, 32), torch.randint(10, (n,))), nn.CrossEntropyLoss()


def loader():
    data = TensorDataset(torch.randn(101, 3, 32, 32), torch.randint(10, (101,)))
    return ResNet(num_classes=10), DataLoader(data, batch_size=8), nn.CrossEntropyLoss()


def dataset():
    data = TensorDataset(torch.randn(101, 3, 32, 32), torch.randint(10, (101,)))
    return ResNet(num_classes=10), data, nn.CrossEntropyLoss()


def lstm():
    net = RNNModel()
    net.vocabulary, net.sequence = 300, 35
    return net
