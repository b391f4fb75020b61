"""LoRA layers with less arithmetic around their matrix products: the same function, peft's own modules.

peft computes `W x + (B (A x)) · s` with one pass each for scaling and adding, over tensors as wide as
the layer's output, forward and backward, and where the base is in a narrow type it casts every input to
float32 and every result back. `addmm_` scales and adds inside the product, in the base's own type; A and
B stay as they are and are cast for use, being much smaller than what flows through them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def make_lean(layer: Any) -> None:
    """Let a LoRA layer compute in the short way wherever that is the same function.

    Where it is not (no adapter acts, or several; dropout; a merged, quantised or otherwise special
    layer) peft's own code runs, as it does when the layer is used by anybody without corsa.

    Args:
        layer: one of peft's LoRA layers around a plain linear projection.
    """
    if "forward" in vars(layer) or type(layer.get_base_layer()) is not nn.Linear:
        return
    by_peft = layer.forward

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        name = _only_active(layer)
        if name is None or args or kwargs:
            return by_peft(x, *args, **kwargs)
        flat = x.flatten(0, -2)
        down, up = layer.lora_A[name].weight.to(x.dtype), layer.lora_B[name].weight.to(x.dtype)
        out: Tensor = layer.base_layer(flat)
        out.addmm_(flat @ down.T, up.T, alpha=layer.scaling[name])  # nobody else holds `out`
        return out.view(*x.shape[:-1], out.shape[-1])

    layer.forward = forward


def _only_active(layer: Any) -> str | None:
    """The adapter that acts if it is alone and plain."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    name: str = layer.active_adapters[0]
    if name not in layer.lora_A or name in layer.lora_variant or layer.lora_bias[name]:
        return None
    dropout = layer.lora_dropout[name]
    idle = isinstance(dropout, nn.Identity) or not dropout.training
    return name if idle else None
