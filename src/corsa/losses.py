"""The losses as functions of log-probabilities: CoRSA's two (arXiv 2602.03696, section 3), and keeping.

Each returns a *sum* and takes the *count* it is to be divided by, so that the mean over a whole
effective batch does not depend on how the batch was cut into micro-batches.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def sft_loss(logps: Tensor, count: float) -> Tensor:
    """Negative log-likelihood of the new answers, a mean over all answer tokens of the batch.

    Args:
        logps: log-probabilities of the answer tokens at hand, end-of-turn included, shape (T,), nats;
            each times the weight of its example.
        count: answer tokens in the whole effective batch, of which these are a part, weighted likewise.

    Returns:
        L_SFT = −Σ logps / count, a scalar.
    """
    return -logps.sum() / count


def keep_loss(divergences: Tensor, count: float) -> Tensor:
    """Distance from the base model along its own replies, a weighted mean over their tokens.

    Args:
        divergences: KL(base || edited) at the reply tokens at hand, shape (T,), nats; each times its
            weight.
        count: sum of the weights in the whole effective batch, of which these are a part.

    Returns:
        L_keep = Σ divergences / count, a scalar.
    """
    return divergences.sum() / count


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    count: int,
) -> Tensor:
    """Direct preference optimisation of the new answer against the old (Rafailov 2023, eq. 7).

    Args:
        chosen: log p(y⁺|x) summed over answer tokens, shape (B,), nats.
        rejected: log p(y⁻|x) likewise, shape (B,).
        reference_chosen: log p(y⁺|x) under the reference model, shape (B,), constant.
        reference_rejected: log p(y⁻|x) under the reference model, shape (B,), constant.
        beta: how far the model may move from the reference; larger is nearer.
        count: pairs in the whole effective batch, of which these B are a part.

    Returns:
        L_DPO = −Σ log σ(β [(chosen − reference_chosen) − (rejected − reference_rejected)]) / count.
    """
    moved = (chosen - reference_chosen) - (rejected - reference_rejected)
    return -logsigmoid(beta * moved).sum() / count
