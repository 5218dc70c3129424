"""A prototypical network (Snell 2017): a sample is an episode, whose queries are classed by their nearest prototype."""

import torch
from torch import nn

WAYS, SHOTS, QUERIES = 5, 2, 3


class Prototypes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))

    def forward(self, support: torch.Tensor, query: torch.Tensor) -> dict[str, torch.Tensor]:
        prototypes = self.embed(support).mean(dim=2)  # [episodes, ways, 32]
        found = self.embed(query).flatten(1, 2)  # [episodes, ways * queries, 32]
        logits = -torch.cdist(found, prototypes).flatten(0, 1)
        wanted = torch.arange(WAYS, device=query.device).repeat_interleave(QUERIES).repeat(len(query))
        return {"loss": nn.functional.cross_entropy(logits, wanted), "logits": logits}


def batch(n: int) -> dict[str, torch.Tensor]:
    return {"support": torch.randn(n, WAYS, SHOTS, 64), "query": torch.randn(n, WAYS, QUERIES, 64)}


def make() -> tuple[nn.Module, object]:
    return Prototypes(), batch
