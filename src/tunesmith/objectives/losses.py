"""Losses that count what is easy for less: focal loss and asymmetric loss, for labels of very unequal frequency.

1. Focal: Lin et al. 2017 (https://arxiv.org/abs/1708.02002, equation 4). Its alpha is our `class_weights: balanced`.
2. Asymmetric: Ridnik et al. 2021 (https://arxiv.org/abs/2009.14119, section 2). We let the gradient run through the focusing
   factor, as the paper does; its authors' code can also stop it there.
3. With several labels a row's loss is the mean over the labels, as in `classification.losses`; the papers take the sum.

Shapes: B rows of a batch, C labels.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def focal(logits_BC: torch.Tensor, targets: torch.Tensor, gamma: float, positive_weights_C: torch.Tensor | None = None) -> torch.Tensor:
    """Cross-entropy times (1 - p)^gamma, where p is the probability of what is true: sure and right answers count for almost nothing.

    One label of logit ln 4 that is present, gamma 2: p = 0.8, so (1 - 0.8)^2 * -ln 0.8 = 0.04 * 0.2231 = 0.008926.

    Args:
        logits_BC: scores.
        targets: int64 (B,), a softmax over labels; or 0/1 float (B, C), a sigmoid a label.
        gamma: 0 is cross-entropy.
        positive_weights_C: weight of a label's presence, for targets (B, C) alone.

    Returns:
        losses_B.
    """
    if targets.ndim == 1:
        log_true_B = -F.cross_entropy(logits_BC, targets, reduction="none")
        # The probability of all other labels by itself, as 1 - p is 0 in floats long before it is 0.
        others_BC = logits_BC.scatter(1, targets[:, None], torch.finfo(logits_BC.dtype).min)
        log_false_B = others_BC.logsumexp(-1) - logits_BC.logsumexp(-1)
        return -(gamma * log_false_B).exp() * log_true_B
    signed_BC = torch.where(targets > 0.5, logits_BC, -logits_BC)
    losses_BC = -(gamma * F.logsigmoid(-signed_BC)).exp() * F.logsigmoid(signed_BC)
    return _weighted(losses_BC, targets, positive_weights_C).mean(-1)


def asymmetric(
    logits_BC: torch.Tensor,
    targets_BC: torch.Tensor,
    positive_gamma: float,
    negative_gamma: float,
    margin: float,
    positive_weights_C: torch.Tensor | None = None,
) -> torch.Tensor:
    """Focal loss with one gamma for labels that are present and another for those absent, and nothing for absent labels below a margin.

    One label of logit -ln 3 (p = 0.25), margin 0.05. Absent, gamma 4: p - margin = 0.2, so 0.2^4 * -ln 0.8 = 0.0016 * 0.2231 = 0.000357.
    Present, gamma 0: -ln 0.25 = 1.386.

    Args:
        logits_BC: scores.
        targets_BC: 0/1 float.
        positive_gamma, negative_gamma: of labels that are present, and absent.
        margin: taken off the probability of an absent label; what lies below counts as 0.
        positive_weights_C: weight of a label's presence.

    Returns:
        losses_B.
    """
    present_BC = -(positive_gamma * F.logsigmoid(-logits_BC)).exp() * F.logsigmoid(logits_BC)
    chance_BC = logits_BC.sigmoid()
    above_BC = chance_BC > margin
    # Where the loss is 0 by the margin, any inner value will do whose gradient is finite: 0 times infinity would be NaN.
    shifted_BC = torch.where(above_BC, chance_BC - margin, 0.5)
    log_rest_BC = torch.log1p(-shifted_BC) if margin else F.logsigmoid(-logits_BC)
    absent_BC = torch.where(above_BC, -(shifted_BC**negative_gamma) * log_rest_BC, 0.0)
    return _weighted(torch.where(targets_BC > 0.5, present_BC, absent_BC), targets_BC, positive_weights_C).mean(-1)


def _weighted(losses_BC: torch.Tensor, targets_BC: torch.Tensor, positive_weights_C: torch.Tensor | None) -> torch.Tensor:
    """Losses of the labels that are present times their weights."""
    if positive_weights_C is None:
        return losses_BC
    return torch.where(targets_BC > 0.5, losses_BC * positive_weights_C.to(losses_BC.device), losses_BC)
