"""What size, how many tokens, which loss and which batch published scaling laws expect of a budget.

Three groups fitted the same form to their own runs and disagree; all of them are shown. Their published standard errors
are strongly correlated within a fit, so none is propagated: the spread between the fits is what can be said.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from rigbench.budget.record import LawLoss, LawOptimum, ScalingLaws
from rigbench.core import units
from rigbench.core.record import Absent

Pair = tuple[float, float]
# Its name and source, (N, D) of FLOP, loss of N and D, what it counts, and the sizes that it was fitted on.
Law = tuple[str, str, Callable[[float], Pair], Callable[[float, float], float], str, Pair]
FLOP_PER_PF_DAY = 8.64e19
CAVEAT = (
    "losses are of the laws' own data and tokenizer (MassiveText, WebText2); another data set is off by a constant "
    "that only a run on it can show"
)


class Fit(NamedTuple):
    """L(N, D) = E + A/N^alpha + B/D^beta, nats a token, N all parameters."""

    law: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str

    def loss(self, parameters: float, tokens: float) -> float:
        return float(self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta)

    def optimum(self, flops: float) -> tuple[float, float]:
        """(N, D) of least loss on 6·N·D = flops (Hoffmann 2022, eq. 4)."""
        g = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = g * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return parameters, flops / (6 * parameters)


# The digits of the paper's text move the optimum by 15 to 20 % against those in its TeX source, so both are here.
FITS = (
    Fit("Hoffmann 2022, as printed", 1.69, 406.4, 410.7, 0.34, 0.28, "arXiv 2203.15556, eq. 10"),
    Fit(
        "Hoffmann 2022, source digits", 1.6934, 406.4, 410.7, 0.3392, 0.2849,
        "TeX source of arXiv 2203.15556, quoted in 2404.10102",
    ),
    Fit("Besiroglu 2024", 1.8172, 482.01, 2085.43, 0.3478, 0.3658, "arXiv 2404.10102, refit of Hoffmann's runs"),
)  # fmt: skip
HOFFMANN_PARAMETERS = (44e6, 16e9)  # the models that were trained for approach 3

# Kaplan 2020 (arXiv 2001.08361): eq. 1.5 with the constants of its section 1.2; N without embeddings.
KAPLAN = "Kaplan 2020"
KAPLAN_SOURCE = "arXiv 2001.08361, eqs. 1.5, 1.7 and 1.8"
KAPLAN_N, KAPLAN_ALPHA_N = 8.8e13, 0.076
KAPLAN_D, KAPLAN_ALPHA_D = 5.4e13, 0.095
KAPLAN_PARAMETERS = (768.0, 1.5e9)
CRITICAL_BATCH, CRITICAL_ALPHA = 2e8, 0.21  # B* in tokens, eq. 1.4


def kaplan_loss(non_embedding: float, tokens: float) -> float:
    """Nats a token on WebText2."""
    by_size = (KAPLAN_N / non_embedding) ** (KAPLAN_ALPHA_N / KAPLAN_ALPHA_D)
    return float((by_size + KAPLAN_D / tokens) ** KAPLAN_ALPHA_D)


def kaplan_optimum(flops: float) -> tuple[float, float]:
    """(N without embeddings, D) for a training far below the critical batch (eq. 1.8 and appendix A)."""
    pf_days = flops / FLOP_PER_PF_DAY
    return 1.3e9 * pf_days**0.73, 2.0e10 * pf_days**0.27


def critical_batch_tokens(loss: float) -> float:
    """Tokens a step beyond which more buy little; at a step of this size a run takes twice the fewest steps."""
    return float(CRITICAL_BATCH / loss ** (1 / CRITICAL_ALPHA))


def optima(flops: float) -> ScalingLaws:
    """Every law's best use of a budget."""
    if not (math.isfinite(flops) and flops > 0):
        raise ValueError(f"{flops} FLOP")
    below = "parameters without embeddings; FLOP at a batch far below the critical one"
    laws: list[Law] = [(KAPLAN, KAPLAN_SOURCE, kaplan_optimum, kaplan_loss, below, KAPLAN_PARAMETERS)]
    laws += [(it.law, it.source, it.optimum, it.loss, "all parameters; 6·N·D", HOFFMANN_PARAMETERS) for it in FITS]
    found = []
    for law, source, optimum, loss, counts, (least, most) in laws:
        parameters, tokens = optimum(flops)
        beyond: str | Absent = Absent("within the sizes that were fitted")
        if not least <= parameters <= most:
            beyond = f"fitted on {units.format_count(least)} to {units.format_count(most)} parameters"
        found.append(LawOptimum(law, parameters, tokens, loss(parameters, tokens), counts, source, beyond))
    sizes, data, nats = ([getattr(one, name) for one in found] for name in ("parameters", "tokens", "loss"))
    return ScalingLaws(
        flops=flops,
        optima=tuple(found),
        parameters_low=min(sizes),
        parameters_high=max(sizes),
        tokens_low=min(data),
        tokens_high=max(data),
        critical_batch_tokens_low=critical_batch_tokens(max(nats)),
        critical_batch_tokens_high=critical_batch_tokens(min(nats)),
        caveat=CAVEAT,
    )


def losses(total_parameters: float, non_embedding: float, tokens: float) -> tuple[LawLoss, ...]:
    """Every law's loss of one model after so many tokens."""
    kaplan = LawLoss(law=KAPLAN, loss=kaplan_loss(non_embedding, tokens), source=KAPLAN_SOURCE)
    others = (LawLoss(law=fit.law, loss=fit.loss(total_parameters, tokens), source=fit.source) for fit in FITS)
    return (kaplan, *others)
