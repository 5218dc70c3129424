"""The model that is trained: one decoder, in GPT-2, GPT-NeoX (Pythia) and Llama style."""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rigbench.model.record import Shape

INIT_STD = 0.02  # GPT-2 (Radford 2019, §2.3), as are the residual weights' further 1/sqrt(2·L)
ROPE_BASE = 10_000.0  # Su 2021, arXiv 2104.09864
ROPE_SHARE = {"gpt2": 0.0, "neox": 0.25, "llama": 1.0}  # of a head's dimensions; GPT-NeoX configs: rotary_pct 0.25
Rope = tuple[Tensor, Tensor]  # cosines and sines, [T, 1, R/2]


class Linear(nn.Linear):
    """Draws its weights once, as GPT-2 does, rather than torch's default first."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Attention(nn.Module):
    """Causal self-attention with one fused query-key-value product; several heads may share a key-value head."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads = shape.heads, shape.kv_heads
        self.head_dim = shape.head_width
        biases = shape.biases or shape.qkv_biases
        self.qkv = Linear(shape.width, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=biases)
        self.out = Linear(shape.query_width, shape.width, bias=shape.biases)
        self.q_norm, self.k_norm = (nn.RMSNorm(self.head_dim) if shape.qk_norms else None for _ in range(2))

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        B, T, _ = x.shape
        heads = self.qkv(x).view(B, T, self.heads + 2 * self.kv_heads, self.head_dim)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)  # [B, T, H, D]
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rotate(q, rope), rotate(k, rope)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [B, H, T, D]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads)
        return cast(Tensor, self.out(y.transpose(1, 2).reshape(B, T, -1)))


class Mlp(nn.Module):
    """GELU, in OpenAI's tanh form for GPT-2 and exact for GPT-NeoX; SwiGLU with one fused product for Llama."""

    def __init__(self, shape: Shape, ffn_width: int = 0) -> None:
        super().__init__()
        self.gated, ffn_width = shape.style == "llama", ffn_width or shape.ffn_width
        self.gelu = "tanh" if shape.style == "gpt2" else "none"
        self.up = Linear(shape.width, ffn_width * (2 if self.gated else 1), bias=shape.biases)
        self.down = Linear(ffn_width, shape.width, bias=shape.biases)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            gate, x = x.chunk(2, dim=-1)
            return cast(Tensor, self.down(F.silu(gate) * x))
        return cast(Tensor, self.down(F.gelu(x, approximate=self.gelu)))


class Experts(nn.Module):
    """SwiGLU experts, of which each token meets a few. Here every expert gets as many tokens as every other, by turns:
    what that takes is what an even router's choice takes, so it serves for predictions and not for training.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        E, d, f = shape.experts, shape.width, shape.ffn_width
        self.active = shape.active_experts
        self.up = nn.Parameter(INIT_STD * torch.randn(E, 2 * f, d))
        self.down = nn.Parameter(INIT_STD * torch.randn(E, d, f))
        self.router = Linear(d, E, bias=False)
        self.shared = Mlp(shape, shape.shared_width) if shape.shared_width else None
        self.gate = Linear(d, 1, bias=False) if shape.shared_width else None

    def forward(self, x: Tensor) -> Tensor:
        E, k, rows = self.up.shape[0], self.active, x.flatten(0, 1)  # [R, d]
        weights = self.router(rows).softmax(dim=-1, dtype=torch.float32)[:, :k].to(x.dtype)  # [R, k]
        places = torch.arange(-(-len(rows) * k // E) * E, device=x.device) % len(rows)
        sent = rows[places].view(E, -1, rows.shape[1])  # [E, R·k/E, d]
        gate, up = (sent @ self.up.mT).chunk(2, dim=-1)
        back = ((F.silu(gate) * up) @ self.down.mT).flatten(0, 1)[: len(rows) * k]  # [R·k, d]
        y = (back.view(k, *rows.shape) * weights.T[..., None]).sum(0).to(x.dtype)
        if self.shared is not None and self.gate is not None:
            y = y + torch.sigmoid(self.gate(rows)) * self.shared(rows)
        return cast(Tensor, y.view_as(x))


class Block(nn.Module):
    """One layer. GPT-NeoX adds attention and MLP side by side, the others one after the other."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.parallel = shape.style == "neox"
        self.norm1, self.attention = norm(shape), Attention(shape)
        self.norm2, self.mlp = norm(shape), Experts(shape) if shape.experts else Mlp(shape)
        self.norm3, self.norm4 = (norm(shape) if shape.post_norms else None for _ in range(2))

    def forward(self, x: Tensor, rope: Rope | None) -> Tensor:
        if self.parallel:
            return cast(Tensor, x + self.attention(self.norm1(x), rope) + self.mlp(self.norm2(x)))
        if self.norm3 is not None and self.norm4 is not None:
            x = x + self.norm3(self.attention(self.norm1(x), rope))
            return cast(Tensor, x + self.norm4(self.mlp(self.norm2(x))))
        x = x + self.attention(self.norm1(x), rope)
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class Decoder(nn.Module):
    """Tokens and targets in, mean cross-entropy over the full vocabulary out (in fp32, under autocast too).

    `checkpointing` keeps only a block's input and computes the block again in the backward pass: True or 1 in every
    block, k in every k-th, False or 0 in none. `loss_chunks` splits the sequence for the head and the loss, whose
    logits are computed again in the backward pass, so that those of one part are live at a time.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape, checkpointing: int = False, loss_chunks: int = 1) -> None:
        super().__init__()
        self.shape, self.checkpointing, self.loss_chunks = shape, checkpointing, loss_chunks
        self.tokens = nn.Embedding(shape.vocabulary, shape.width)  # drawn with a deviation of 1, scaled below
        self.positions = nn.Embedding(shape.sequence, shape.width) if shape.style == "gpt2" else None
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = norm(shape)
        self.head = None if shape.tied_head else Linear(shape.width, shape.vocabulary, bias=False)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name.startswith(("tokens", "positions")):
                    weight.mul_(INIT_STD)
                elif name.endswith(("out.weight", "down.weight", "mlp.down")):
                    weight.mul_(1 / math.sqrt(2 * shape.layers))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        T = tokens.shape[1]
        x = self.tokens(tokens)  # [B, T, d], fp32 under autocast: so are the residual stream and every norm
        rope = None
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        else:
            kind = x.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
            rope = self.cos[:T].to(dtype), self.sin[:T].to(dtype)
        for index, block in enumerate(self.blocks):
            if self.checkpointing and index % self.checkpointing == 0:
                x = checkpoint(block, x, rope, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rope)
        head = self.tokens.weight if self.head is None else self.head.weight
        if self.loss_chunks == 1:
            return cross_entropy(x, self.norm, head, targets) / targets.numel()
        parts = zip(x.chunk(self.loss_chunks, dim=1), targets.chunk(self.loss_chunks, dim=1), strict=True)
        # A view of the head is cast to bf16 part by part, so that the parts' gradients are added up in fp32.
        once_more = partial(checkpoint, cross_entropy, use_reentrant=False, preserve_rng_state=False)
        sums = [once_more(part, self.norm, head.view_as(head), wanted) for part, wanted in parts]
        return torch.stack(sums).sum() / targets.numel()


def cross_entropy(x: Tensor, norm: nn.Module, head: Tensor, targets: Tensor) -> Tensor:
    """Summed over the tokens of the residual stream x [B, T, d]."""
    logits = F.linear(norm(x), head).float()  # [B, T, V], fp32 on every device
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def norm(shape: Shape) -> nn.Module:
    if shape.style == "llama":
        return nn.RMSNorm(shape.width, eps=1e-5)
    return nn.LayerNorm(shape.width, eps=1e-5, bias=shape.biases)


def rope_tables(shape: Shape) -> Rope:
    rotated = int(shape.head_width * ROPE_SHARE[shape.style]) // 2 * 2
    frequencies = ROPE_BASE ** (-torch.arange(0, rotated, 2).float() / max(rotated, 1))
    angles = torch.outer(torch.arange(shape.sequence).float(), frequencies)[:, None]  # [T, 1, R/2]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rope: Rope) -> Tensor:
    cos, sin = rope
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]  # [B, T, H, ·]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)
