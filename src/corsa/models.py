"""A base model with its tokenizer, and the adapters attached to it.

The only file that imports peft.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn

from corsa.chat import ChatFormat
from corsa.config import Config
from corsa.errors import ModelError
from corsa.files import canonical_json
from corsa.forward import Forward
from corsa.lean import make_lean
from corsa.model_card import model_card
from corsa.quiet import quiet_libraries
from corsa.sources import ModelSource, first_line, resolve

logger = logging.getLogger(__name__)

# Of what an adapter does, by squared length: what float32 leaves. What training moves is more.
_ROUNDING = 1e-13

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


class BaseModel:
    """A causal language model as it was loaded, plus any number of adapters beside it.

    An adapter is LoRA, or another weight for one module. None acts outside a `using` block.

    Args:
        source: where it came from.
        hf: the transformers model, in eval mode.
        tokenizer: its tokenizer.
        packing: as in `Config.packing`.
    """

    def __init__(self, source: ModelSource, hf: Any, tokenizer: Any, packing: str = "auto") -> None:
        from transformers import GenerationConfig

        self.source = source
        self.hf = hf
        self.tokenizer = tokenizer
        self.chat = ChatFormat(tokenizer, source.name, _stop_ids(hf))
        # What a model brings (a repetition penalty, say) fills every gap in a caller's settings.
        hf.generation_config = GenerationConfig()
        self.forward = Forward(hf, self.chat.stop_ids[0], packing)
        self.trust_remote_code = False
        self._peft: Any = None
        self._weights: dict[str, _OtherWeight] = {}
        self._other: _OtherWeight | None = None
        self._copies: dict[str, list[tuple[nn.Parameter, Tensor, Tensor]]] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.forward.device

    @property
    def dtype(self) -> str:
        """Name of the dtype the base weights are in."""
        return str(self.hf.dtype).removeprefix("torch.")

    def identity(self) -> list[Any]:
        """All that this model's replies depend on, beside the prompt.

        Returns:
            Plain data, to name what is kept of its replies.
        """
        return [
            self.source.sha256,
            self.dtype,
            self.device.type,
            self.hf.config.get_text_config()._attn_implementation,
            self.chat.template_hash,
            torch.__version__,
            torch.get_num_threads(),
            transformers.__version__,
            str(self.forward.rule.windows),
        ]

    @property
    def context_length(self) -> int | None:
        """How many tokens the model can read, if its config says."""
        length: int | None = getattr(
            self.hf.config.get_text_config(), "max_position_embeddings", None
        )
        return length

    def new_adapter(self, name: str, config: Config) -> Adapter:
        """Attach a fresh LoRA adapter, which changes nothing yet: B is zero.

        Args:
            name: of the adapter, unique in this model.
            config: rank, alpha, dropout and seed.

        Returns:
            The adapter.

        Raises:
            ModelError: if the model has none of the parts asked for.
        """
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        modules = _chosen(adaptable_modules(self.hf), config)
        if not modules:
            raise ModelError(
                f"{self.source.name} has no projection in layers={config.layers} parts={config.parts}: "
                "choose others"
            )
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=_shortest_names(modules, self.hf),
            task_type="CAUSAL_LM",
            bias="none",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in self.hf.modules()),
        )
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            self._attach(name, lora)
        kinds = Counter(module.rpartition(".")[2] for module in modules)
        logger.info("adapting %d modules: %s", len(modules), dict(kinds))
        return Adapter(self, name)

    def outputs(self) -> list[tuple[nn.Module, str]]:
        """The decoder's layers with what writes their MLP's result into the residual stream.

        Returns:
            Layers in order, each with the full name of that projection; layers without one are left out.
        """
        found: dict[str, str] = {}
        width = self.hf.get_input_embeddings().weight.shape[1]
        for name in adaptable_modules(self.hf):
            at = re.match(r"(.*?\.\d+)\.", name)
            module = self.hf.get_submodule(name)
            weight = getattr(module, "base_layer", module).weight
            if at and width in weight.shape and not _attends(name):
                found[at[1]] = name  # the last one of a layer's MLP
        return [(self.hf.get_submodule(layer), name) for layer, name in found.items()]

    def load_adapter(self, name: str, folder: Path) -> Adapter:
        """Attach a saved adapter, to be asked or trained on.

        Args:
            name: of the adapter, unique in this model.
            folder: with `adapter_config.json` and `adapter_model.safetensors`.

        Returns:
            The adapter.

        Raises:
            ModelError: if it does not fit this model.
        """
        from peft import LoraConfig, set_peft_model_state_dict
        from safetensors.torch import load_file

        lora = LoraConfig.from_pretrained(str(folder))
        lora.inference_mode = False
        weights = load_file(folder / ADAPTER_WEIGHTS, device=str(self.device))
        try:
            self._attach(name, lora)
            result = set_peft_model_state_dict(self._peft, weights, adapter_name=name)
        except (ValueError, RuntimeError) as error:  # peft's words for other names and other shapes
            reason = str(error).strip().splitlines()[-1].strip()
            raise self._misfit(name, folder, reason) from error
        lacking = [key for key in result.missing_keys if f".{name}." in key and ".lora_" in key]
        if lacking:
            raise self._misfit(name, folder, f"it lacks {lacking[0]}")
        if result.unexpected_keys:
            raise self._misfit(name, folder, f"it holds {result.unexpected_keys[0]}")
        return Adapter(self, name)

    def _misfit(self, name: str, folder: Path, reason: str) -> ModelError:
        """The error to raise for an adapter that does not fit; what was attached of it is gone."""
        if self._peft is not None and name in self._peft.peft_config:
            self.drop_adapter(name)
        return ModelError(
            f"the adapter in {folder} does not fit {self.source.name} ({reason}): "
            "use it with the model it was trained on"
        )

    def drop_adapter(self, name: str) -> None:
        """Detach an adapter and free its memory.

        Args:
            name: of the adapter.
        """
        if self._weights.pop(name, None) is not None:
            return
        if len(self._peft.peft_config) == 1:
            self._peft.unload()
            self._peft = None
            return
        before = self._active()
        # peft warns when the one it had set last goes, acting or not.
        self._peft.set_adapter(next(other for other in self._peft.peft_config if other != name))
        self._peft.delete_adapter(name)
        self._set_active(None if before == name else before)

    def merge(self, name: str) -> None:
        """Make what is attached part of the base weights, for good: `hf` is a plain model then.

        Args:
            name: of an adapter, or of what `attach_weight` keeps.
        """
        if name in self._weights:
            other = self._weights.pop(name)
            other.module.weight = other.changed
            return
        with warnings.catch_warnings():
            # peft warns of other adapters that are not merged: they are gone on purpose.
            warnings.simplefilter("ignore")
            self._peft.merge_and_unload(adapter_names=[name])
        self._peft = None

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Inside the block the named adapter acts, or none; after it what acted before.

        Args:
            name: of an adapter, or `None` for the base model alone.

        Yields:
            Nothing.
        """
        before = self._active()
        try:
            self._set_active(name)
            yield
        finally:
            self._set_active(before)

    @contextmanager
    def recomputing(self, *, on: bool) -> Iterator[None]:
        """Inside the block activations are computed again in the backward pass instead of kept.

        Args:
            on: whether to do so at all.

        Yields:
            Nothing.

        Raises:
            ModelError: if the model cannot do it.
        """
        if not on:
            yield
            return
        from transformers.modeling_layers import GradientCheckpointingLayer

        layers = [m for m in self.hf.modules() if isinstance(m, GradientCheckpointingLayer)]
        if not layers:
            raise ModelError(f"{self.source.name} cannot recompute: say recompute=false")
        rule = self.forward.rule
        # Blocks are known while a pass lasts; a layer that runs again later needs the mask.
        self.forward.rule = rule._replace(by_blocks=False)
        # transformers renamed it in the course of version 5.
        name = "activation" if hasattr(self.hf, "activation_checkpointing_enable") else "gradient"
        getattr(self.hf, f"{name}_checkpointing_enable")({"use_reentrant": False})
        try:
            for layer in layers:
                layer.training = True  # it asks; what is inside it stays in eval mode
            yield
        finally:
            for layer in layers:
                layer.training = False
            getattr(self.hf, f"{name}_checkpointing_disable")()
            self.forward.rule = rule

    @contextmanager
    def computing_in(self, dtype: str) -> Iterator[None]:
        """Inside the block the base weights are copies in another dtype; adapters stay as they are.

        The copies are made once and kept until `forget_copies`.

        Args:
            dtype: by name, or "auto" as in `Config.train_dtype`.

        Yields:
            Nothing.
        """
        dtype = self.train_dtype(dtype)
        if dtype == self.dtype:
            yield
            return
        if dtype not in self._copies:
            self._copies[dtype] = [
                (param, param.data, param.data.to(getattr(torch, dtype)))
                for name, param in self.hf.named_parameters()
                if ".lora_" not in name
            ]
        copies = self._copies[dtype]
        try:
            for param, _, copy in copies:
                param.data = copy
            yield
        finally:
            for param, own, _ in copies:
                param.data = own

    def train_dtype(self, asked: str) -> str:
        """The dtype that training steps compute in.

        Args:
            asked: as in `Config.train_dtype`.

        Returns:
            Its name.
        """
        if asked != "auto":
            return asked
        narrow = self.dtype == "float32" and self.device.type == "cpu" and cpu_has_bfloat16()
        return "bfloat16" if narrow else self.dtype

    def forget_copies(self) -> None:
        """Free the copies that `computing_in` made."""
        self._copies.clear()

    def _attach(self, name: str, lora: Any) -> None:
        from peft import get_peft_model

        # peft warns where this is not the folder it was loaded from; what is saved is the user's name.
        lora.base_model_name_or_path = self.hf.name_or_path or None
        with warnings.catch_warnings():
            # peft asks transformers for a name that has changed there: nothing a user could do.
            warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated")
            if self._peft is None:
                self._peft = get_peft_model(self.hf, lora, adapter_name=name)
            else:
                self._peft.add_adapter(name, lora)
        self.hf.eval()  # new dropout modules come in training mode
        for layer in self._lora_layers():
            make_lean(layer)
        self._set_active(None)

    def attach_weight(self, name: str, module: str, weight: Tensor | None) -> nn.Parameter:
        """Keep another weight for a module; it acts inside `using(name)`.

        Args:
            name: of what is attached, unique in this model.
            module: full name of a module with a weight.
            weight: of the shape of the module's own; `None`: a copy of that.

        Returns:
            The weight as it may be trained.

        Raises:
            ModelError: if there is no such module, or its weight has another shape.
        """
        from peft.tuners.lora import LoraLayer

        try:
            found = self.hf.get_submodule(module)
        except AttributeError:
            raise ModelError(f"{self.source.name} has no module {module}") from None
        if isinstance(found, LoraLayer):
            found = found.get_base_layer()
        with self.using(None):
            own = found.weight
        weight = own if weight is None else weight
        if weight.shape != own.shape:
            raise ModelError(
                f"{module} of {self.source.name} is of shape {tuple(own.shape)} and not "
                f"{tuple(weight.shape)}: use the weight with the model it was trained on"
            )
        changed = nn.Parameter(weight.detach().to(own, copy=True))
        self._weights[name] = _OtherWeight(name, found, own, changed)
        return changed

    def _active(self) -> str | None:
        if self._other is not None:
            return self._other.name
        layers = self._lora_layers()
        if not layers or layers[0].disable_adapters:
            return None
        return str(layers[0].active_adapters[0])

    def _set_active(self, name: str | None) -> None:
        if self._other is not None:
            self._other.module.weight = self._other.own
            self._other = None
        if name in self._weights:
            self._other = self._weights[name]
            self._other.module.weight = self._other.changed
            name = None
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name)

    def _scaling(self, module: str, name: str) -> float:
        """By how much the adapter's B A is scaled at a module."""
        return float(self.hf.get_submodule(module).scaling[name])

    def _lora_layers(self) -> list[Any]:
        from peft.tuners.lora import LoraLayer

        return [m for m in self.hf.modules() if isinstance(m, LoraLayer)]


class _OtherWeight(NamedTuple):
    """A module, its own weight, and the one that takes its place while `name` acts."""

    name: str
    module: Any
    own: nn.Parameter
    changed: nn.Parameter


class Adapter:
    """One LoRA adapter of a `BaseModel`.

    Args:
        base: the model it is attached to.
        name: its name there.
    """

    def __init__(self, base: BaseModel, name: str) -> None:
        self.base = base
        self.name = name

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The A and B matrices by their name in the model, without the adapter's own name."""
        marker = f".{self.name}."
        return {
            name.replace(marker, "."): param
            for name, param in self.base.hf.named_parameters()
            if marker in name and ".lora_" in name
        }

    def modules(self) -> dict[str, int]:
        """How many modules of each kind carry the adapter.

        Returns:
            Counts by the modules' last name.
        """
        adapted = [name.split(".lora_A.")[0] for name in self.params if ".lora_A." in name]
        return dict(sorted(Counter(name.rpartition(".")[2] for name in adapted).items()))

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """Inside the block the adapter's dropout acts; what is measured is measured without it.

        Yields:
            Nothing.
        """
        modules = [
            layer.lora_dropout[self.name]
            for layer in self.base._lora_layers()
            if self.name in layer.lora_dropout
        ]
        try:
            for module in modules:
                module.train()
            yield
        finally:
            for module in modules:
                module.eval()

    def state(self) -> dict[str, Tensor]:
        """A copy of all values on the CPU.

        Returns:
            Tensors by parameter name.
        """
        return {name: param.detach().cpu().clone() for name, param in self.params.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put values back that `state` gave.

        Args:
            state: tensors by parameter name.
        """
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(state[name])

    def acts_on(self, module: str) -> bool:
        """Whether it acts on a module.

        Args:
            module: its full name.

        Returns:
            Whether it has an A and a B there.
        """
        return f"{module}.lora_A.weight" in self.params

    def rank(self, module: str) -> int:
        """Its rank at one of its modules.

        Args:
            module: full name; it must act there.

        Returns:
            The number of rows of A.
        """
        return len(self._parts(module)[0])

    @torch.no_grad()
    def room(self, module: str) -> int:
        """How much of its rank does nothing yet at one of its modules.

        Args:
            module: full name; it must act there.

        Returns:
            From 0, as after any training, to its rank.
        """
        _, values, _ = self._product(module)
        return self.rank(module) - int((values.square() > _ROUNDING * values.square().sum()).sum())

    @torch.no_grad()
    def moved(self, module: str) -> Tensor:
        """Which outputs of a module it changes.

        Args:
            module: full name; it must act there.

        Returns:
            Shape (out,), bool.
        """
        down, up = (part.double() for part in self._parts(module))
        lengths = (up @ (down @ down.T) * up).sum(1)
        return lengths > _ROUNDING * lengths.sum()

    @torch.no_grad()
    def columns(self, module: str, inputs: Tensor) -> Tensor:
        """What it does with some inputs of a module.

        Args:
            module: full name; it must act there.
            inputs: which, shape (in,), bool.

        Returns:
            Shape (out, n), float64.
        """
        down, up = self._parts(module)
        return self.base._scaling(module, self.name) * up.double() @ down.double()[:, inputs]

    @torch.no_grad()
    def add(self, module: str, left: Tensor, right: Tensor, generator: torch.Generator) -> float:
        """Let it do something more at one of its modules, as nearly as its rank allows.

        A and B become the best of that rank (Eckart and Young). Rows of A that this leaves unused are
        drawn anew, their columns of B zero, so that training can go on in them.

        Args:
            module: full name; it must act there.
            left: shape (out, n); `left @ right @ x` is added to what it does.
            right: shape (n, in).
            generator: draws the unused rows.

        Returns:
            Which part of what it should do, in squared length, the rank cannot hold.
        """
        down, up = self._parts(module)
        scale = self.base._scaling(module, self.name)
        whole = torch.cat([scale * up.double(), left.to(up.device)], dim=1)
        return self.put(module, whole, torch.cat([down.double(), right.to(down.device)]), generator)

    @torch.no_grad()
    def put(self, module: str, left: Tensor, right: Tensor, generator: torch.Generator) -> float:
        """Let it do something at one of its modules, whatever it did there; else as `add`.

        Args:
            module: full name; it must act there.
            left: shape (out, n); `left @ right @ x` is what it does.
            right: shape (n, in).
            generator: draws the unused rows.

        Returns:
            Which part of that, in squared length, the rank cannot hold.
        """
        down, up = self._parts(module)
        scale = self.base._scaling(module, self.name)
        first, values, second = _taken_apart(left.double(), right.double())
        rank = len(down)
        squares = values.square()
        lost = float(squares[rank:].sum() / squares.sum().clamp_min(1e-300))
        used = min(rank, int((squares > _ROUNDING * squares.sum()).sum()))
        roots = (values[:used] / scale).sqrt()
        bound = down.shape[1] ** -0.5
        fresh = torch.empty(down.shape).uniform_(-bound, bound, generator=generator).to(down)
        fresh[:used] = (roots[:, None] * second[:used]).to(down)
        up.zero_()
        up[:, :used] = (first[:, :used] * roots).to(up)
        down.copy_(fresh)
        return lost

    def _parts(self, module: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A and B."""
        down, up = (self.params[f"{module}.lora_{part}.weight"] for part in "AB")
        return down, up

    def _product(self, module: str) -> tuple[Tensor, Tensor, Tensor]:
        """What it does, taken apart."""
        down, up = self._parts(module)
        scale = self.base._scaling(module, self.name)
        return _taken_apart(scale * up.double(), down.double())

    def save(self, folder: Path) -> None:
        """Write the adapter as plain peft reads it; equal adapters give equal bytes.

        Args:
            folder: where to; it must exist.
        """
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        peft = self.base._peft
        weights = get_peft_model_state_dict(peft, adapter_name=self.name)
        weights = {name: weights[name].detach().cpu().contiguous() for name in sorted(weights)}
        save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = peft.peft_config[self.name].to_dict() | {
            "base_model_name_or_path": self.base.source.name,
            "revision": self.base.source.revision,
            "inference_mode": True,
        }
        plain = {
            key: sorted(value) if isinstance(value, set) else value for key, value in config.items()
        }
        (folder / ADAPTER_CONFIG).write_text(canonical_json(plain), "utf-8")
        card = model_card(self.base.source.name, self.modules(), config["r"])
        (folder / "README.md").write_text(card, "utf-8")

    def drop(self) -> None:
        """Detach it from the model."""
        self.base.drop_adapter(self.name)


def _taken_apart(outer: Tensor, inner: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of `outer @ inner`, which may have 10⁸ entries.

    Returns:
        Left singular vectors, values and right ones, float64.
    """
    first, mixed = torch.linalg.qr(outer)
    second, mixing = torch.linalg.qr(inner.T)
    left, values, right = torch.linalg.svd(mixed @ mixing.T, full_matrices=False)
    return first @ left, values, right @ second.T


def cpu_has_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 itself; where it does not, it is slower.

    Returns:
        Whether its instructions are there; `False` where that cannot be told.
    """
    # oneDNN's own answer is also yes where it only imitates it; these two have no public name.
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)


def load_model(
    name: str, config: Config, *, revision: str | None = None, trust_remote_code: bool = False
) -> BaseModel:
    """Load a causal language model and its tokenizer.

    Args:
        name: `smollm2`, a GGUF file, a local folder, or a Hugging Face id.
        config: dtype, device, attention and packing.
        revision: branch, tag or commit of a Hugging Face id.
        trust_remote_code: whether the repository's own Python files may run.

    Returns:
        The model, no adapter attached.

    Raises:
        ModelError: if it cannot be found or loaded, or is not a decoder-only model.
    """
    source = resolve(name, revision, trust_remote_code=trust_remote_code)
    return load_source(source, config, trust_remote_code=trust_remote_code)


def load_source(
    source: ModelSource, config: Config, *, trust_remote_code: bool = False
) -> BaseModel:
    """Load a model that was resolved before.

    Args:
        source: where it is.
        config: dtype, device, attention and packing.
        trust_remote_code: whether the repository's own Python files may run.

    Returns:
        The model, no adapter attached.

    Raises:
        ModelError: if it cannot be loaded, or is not a decoder-only model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = _device(config.device)
    dtype = config.dtype
    if dtype == "auto":
        dtype = "float32" if device.type == "cpu" else "bfloat16"
    folder = str(source.folder)
    try:
        with quiet_libraries():
            # Asked first: some encoder-decoders load as their decoder alone, without a word.
            whole = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            if whole.is_encoder_decoder:
                raise ModelError(
                    f"{source.name} is an encoder-decoder model: give a decoder-only one"
                )
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
            hf = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                attn_implementation=config.attention,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
            )
    except ModelError:
        raise
    except (ValueError, OSError, RuntimeError, KeyError, ImportError) as error:
        own_code = "trust_remote_code" in str(error)
        hint = "; allow its own code with --trust-remote-code" if own_code else ""
        raise ModelError(f"{source.name} cannot be loaded: {first_line(error)}{hint}") from error
    hf.requires_grad_(requires_grad=False)
    model = BaseModel(source, hf.to(device).eval(), tokenizer, config.packing)
    model.trust_remote_code = trust_remote_code
    return model


def adaptable_modules(hf: Any) -> list[str]:
    """Full names of the linear projections in the decoder's layers, found from the module tree.

    Left out: the output head and vision or audio towers (outside the decoder), and what decides
    where tokens go rather than what they become: routers and gates with one output per expert.

    Args:
        hf: a transformers causal language model.

    Returns:
        Names, in module order.

    Raises:
        ModelError: if there are none.
    """
    from peft.tuners.lora import LoraLayer
    from transformers.pytorch_utils import Conv1D

    decoder, config = hf.get_decoder(), hf.config.get_text_config()
    prefix = next(name for name, module in hf.named_modules() if module is decoder)
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    routed = {1} | {getattr(config, count, None) for count in counts}
    # Where an adapter is attached already, what it wraps counts and its own matrices do not.
    layers = {name: m for name, m in decoder.named_modules() if isinstance(m, LoraLayer)}
    inside = tuple(f"{name}." for name in layers)
    bare = [
        (name, layers[name].get_base_layer() if name in layers else module)
        for name, module in decoder.named_modules()
        if not name.startswith(inside)
    ]
    found = [
        f"{prefix}.{name}" if prefix else name
        for name, module in bare
        if isinstance(module, nn.Linear | Conv1D)
        and module is not hf.get_output_embeddings()
        and (module.nf if isinstance(module, Conv1D) else module.out_features) not in routed
    ]
    if not found:
        raise ModelError(
            f"{type(hf).__name__} has no linear projections that an adapter could act on: "
            "give a transformer language model"
        )
    return found


def _chosen(modules: list[str], config: Config) -> list[str]:
    """The modules in the layers and the part of them that the settings name."""
    places = {name: int(at[1]) for name in modules if (at := re.search(r"\.(\d+)\.", name))}
    depth = 1 + max(places.values(), default=-1)
    first, last = (round(share * depth) for share in config.layers_between())
    first = min(first, depth - 1)
    last = max(last, first + 1)  # a share of a small model may be less than one layer
    if (first, last) != (0, depth):
        modules = [name for name in modules if first <= places.get(name, -1) < last]
    attention = [name for name in modules if _attends(name)]
    mlp = [name for name in modules if name not in attention]
    return {"all": modules, "mlp": mlp, "attention": attention, "auto": mlp or modules}[
        config.parts
    ]


def _attends(name: str) -> bool:
    """Whether a module is a part of attention, by its full name."""
    return "att" in name.rpartition(".")[0].rpartition(".")[2]


def _shortest_names(modules: list[str], hf: Any) -> list[str]:
    """Last names where they select exactly these modules (as everybody writes them), else full ones."""
    last = sorted({name.rpartition(".")[2] for name in modules})
    selected = [name for name, _ in hf.named_modules() if name.rpartition(".")[2] in last]
    return last if sorted(selected) == sorted(modules) else sorted(modules)


def _stop_ids(hf: Any) -> list[int]:
    ids = hf.generation_config.eos_token_id
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"there is no device {name!r} here: {first_line(error)}") from error
