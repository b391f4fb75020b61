"""The two losses of CoRSA as functions of log-probabilities (arXiv 2602.03696, section 3).

Each returns a *sum* and takes the *count* it is to be divided by, so that the mean over a whole
effective batch does not depend on how the batch was cut into micro-batches.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid


def sft_loss(logps: Tensor, count: int) -> Tensor:
    """Negative log-likelihood of the new answers, a mean over all answer tokens of the batch.

    Args:
        logps: log-probabilities of the answer tokens at hand, end-of-turn included, shape (T,), nats.
        count: answer tokens in the whole effective batch, of which these are a part.

    Returns:
        L_SFT = −Σ logps / count, a scalar.
    """
    return -logps.sum() / count


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
