"""Mixture-of-Recursions (arXiv 2507.10524): routers choose the tokens a recursion works on, one sequence at a time.

Keys of the `router:` section, with their defaults:

| key | default | meaning |
| --- | --- | --- |
| `type` | expert | expert: every recursion picks its tokens; token: every token picks its number of recursions |
| `capacity` | (R - r) / R | expert: kept part of the whole sequence, max(1, ⌊capacity T⌋) tokens, by recursion |
| `network` | linear | linear, mlp (hidden 2D), wide_mlp (hidden 4D); no biases, erf GELU |
| `temperature` | 1 | the router sees state / temperature |
| `gate` | sigmoid; softmax | expert: sigmoid, tanh or none (the bare logit, without alpha); token: softmax, sigmoid |
| `alpha` | 0.1; 1 with softmax | factor of the gate |
| `gating` | weighted | weighted: the block's output times the gate; additive: times 1 |
| `sampling` | aux_loss | expert: aux_loss, aux_router (a router of its own on the detached state) or none |
| `coefficient` | 0.001; 1; 0.1 | of the term `router` with aux_loss; with aux_router; of `balance` |
| `z_loss` | 0 | coefficient of the term `router_z` |
| `balancing` | loss | token: loss, or loss_free (a bias outside of the gradient, 0 before the first step) |
| `balance_scope` | micro_batch | token: micro_batch or sequence |
| `gate_at` | final | token: gates act on the last recursion of a token or on every one |
| `share_attention` | true | expert: false: every recursion has its own `self_attn` |
| `update_keys` | false | expert with `share_key_values`: active positions have their keys and values of this recursion |

Names (F is the group's first layer): expert `model.layers.{F}.block.{j}.*`, routers
`model.layers.{F+r}.mor_router.router.weight` [1, D] (`router.0.weight`, `router.2.weight` of an mlp) and
`model.layers.{F+r}.mlp_router.router...`, a use's own tensors `model.layers.{F+r}.block.{j}.*`, next layer F + R.
Token `model.layers.{F}.block_list.0.{j}.*`, `model.layers.{F}.mor_router.router.weight` [R, D], a use's own
`model.layers.{F}.block_list.{r}.{j}.*`, next layer F + 1.

Routing needs whole sequences, so no state of a routed block outlives the batch: these groups have no carries.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks import Homes, Memory
from functions import Parameters, gelu
from recursion import RecurrentDepth, Recursion, Shapes, Trace


class Routed(Recursion):
    """What both kinds of routing have in common."""

    @property
    def router(self) -> dict:
        return self.config["router"]

    def homes(self, recursion: int, block: int) -> Homes:
        stored, own = self.home(0, block), self.home(recursion, block)
        attention = stored if self.router.get("share_attention", True) else own
        return Homes(layer=stored, norms=self.norm_home(stored, own), attention=attention, lora=own)

    def home(self, recursion: int, block: int) -> str:
        raise NotImplementedError

    def owns_keys(self, recursion: int) -> bool:
        return super().owns_keys(recursion) or self.router.get("update_keys", False)

    def network_shapes(self, name: str, outputs: int) -> Shapes:
        network = self.router.get("network", "linear")
        if network == "linear":
            return {f"{name}.router.weight": (outputs, self.width)}
        hidden = {"mlp": 2, "wide_mlp": 4}[network] * self.width
        return {f"{name}.router.0.weight": (hidden, self.width), f"{name}.router.2.weight": (outputs, hidden)}

    def network(self, parameters: Parameters, name: str, x: Tensor) -> Tensor:
        """Logits [n, outputs] for x [n, D]."""
        if f"{name}.router.weight" in parameters:
            return x @ parameters[f"{name}.router.weight"].T
        return gelu(x @ parameters[f"{name}.router.0.weight"].T) @ parameters[f"{name}.router.2.weight"].T

    def tempered(self, x: Tensor) -> Tensor:
        return x / self.router.get("temperature", 1)

    def step(
        self, parameters: Parameters, r: int, x: Tensor, positions: Tensor, memories: dict[int, Memory]
    ) -> Tensor:
        """Recursion r of the block for the tokens x [n, D] of one sequence; `memories` are those of recursion 0."""
        x = x[None]
        for j, block in enumerate(self.loops[r]):
            x, _, memory = block.forward(parameters, x, positions, memories[j] if self.shares_keys and r > 0 else None)
            if r == 0:
                memories[j] = memory
        return x[0]


class ExpertChoice(Routed):
    @property
    def layer_count(self) -> int:
        return self.count

    @property
    def is_causal(self) -> bool | None:
        return None

    def home(self, recursion: int, block: int) -> str:
        return f"model.layers.{self.first + recursion}.block.{block}"

    @property
    def capacity(self) -> list[float]:
        return self.router.get("capacity", [(self.count - r) / self.count for r in range(self.count)])

    def group_shapes(self) -> Shapes:
        shapes: Shapes = {}
        for r in range(self.count):
            shapes |= self.network_shapes(f"model.layers.{self.first + r}.mor_router", 1)
            if self.router.get("sampling", "aux_loss") == "aux_router":
                shapes |= self.network_shapes(f"model.layers.{self.first + r}.mlp_router", 1)
        return shapes

    def forward(self, parameters: Parameters, x: Tensor, trace: Trace) -> Tensor:
        batch, time, _ = x.shape
        states = list(x)
        active = [torch.arange(time)] * batch
        memories: list[dict[int, Memory]] = [{} for _ in range(batch)]
        sampling = self.router.get("sampling", "aux_loss")
        for r in range(self.count):
            kept = max(1, math.floor(self.capacity[r] * time))
            assert not self.shares_keys or r > 0 or kept == time, "shared keys are those of all tokens"
            prefix = f"model.layers.{self.first + r}"
            logits, guesses, chosen = [], [], []
            for b in range(batch):
                candidates = states[b][active[b]]
                z = self.network(parameters, f"{prefix}.mor_router", self.tempered(candidates))[:, 0]
                order = z.argsort(descending=True, stable=True)
                if kept < len(order):
                    trace.decide(z[order[kept - 1]] - z[order[kept]])
                taken = order[:kept].sort().values
                logits.append(z)
                chosen.append(torch.zeros_like(z).index_fill(0, taken, 1))
                if sampling == "aux_router":
                    guesses.append(self.network(parameters, f"{prefix}.mlp_router", trace.stop(candidates))[:, 0])
                selected = active[b][taken]
                out = self.step(parameters, r, candidates[taken], selected, memories[b])
                states[b] = states[b].index_add(0, selected, self._gate(z[taken])[:, None] * out)
                active[b] = selected
            z, y = torch.stack(logits), torch.stack(chosen)
            if sampling == "aux_loss":
                trace.add("router", self.router.get("coefficient", 0.001) * cross_entropy(z, y))
            elif sampling == "aux_router":
                trace.add("router", self.router.get("coefficient", 1) * cross_entropy(torch.stack(guesses), y))
            if self.router.get("z_loss", 0) > 0:
                trace.add("router_z", self.router["z_loss"] * z.square().mean())
        return torch.stack(states)

    def _gate(self, z: Tensor) -> Tensor:
        if self.router.get("gating", "weighted") == "additive":
            return torch.ones_like(z)
        function = self.router.get("gate", "sigmoid")
        if function == "none":
            return z
        return self.router.get("alpha", 0.1) * {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[function](z)


class TokenChoice(Routed):
    @property
    def layer_count(self) -> int:
        return 1

    @property
    def is_divisible(self) -> bool:
        """The balance term multiplies two means, of the micro-batch or of each sequence."""
        return self.router.get("balancing", "loss") == "loss_free" or self.router.get("balance_scope") == "sequence"

    def home(self, recursion: int, block: int) -> str:
        return f"model.layers.{self.first}.block_list.{recursion}.{block}"

    def group_shapes(self) -> Shapes:
        return self.network_shapes(f"{self.prefix}.mor_router", self.count)

    def forward(self, parameters: Parameters, x: Tensor, trace: Trace) -> Tensor:
        logits = self.network(parameters, f"{self.prefix}.mor_router", self.tempered(x))
        gates = self._gates(logits)
        highest = logits.topk(2, -1).values
        trace.decide(highest[..., 0] - highest[..., 1])
        # The bias of loss_free is zero before the first step.
        depths = gates.argmax(-1)
        if self.router.get("balancing", "loss") == "loss":
            trace.add("balance", self.router.get("coefficient", 0.1) * self._balance(gates, depths))
        if self.router.get("z_loss", 0) > 0:
            trace.add("router_z", self.router["z_loss"] * logits.logsumexp(-1).square().mean())
        return torch.stack([self._sequence(parameters, *each) for each in zip(x, gates, depths)])

    def _gates(self, z: Tensor) -> Tensor:
        if self.router.get("gate", "softmax") == "softmax":
            return self.router.get("alpha", 1) * z.softmax(-1)
        return self.router.get("alpha", 0.1) * z.sigmoid()

    def _balance(self, gates: Tensor, depths: Tensor) -> Tensor:
        """Σ_j P_j f_j: mean gate times R times the share of tokens, of all tokens or sequence by sequence."""
        if self.router.get("balance_scope", "micro_batch") == "micro_batch":
            gates, depths = gates.flatten(0, 1)[None], depths.flatten()[None]
        share = F.one_hot(depths, self.count).to(gates.dtype).mean(1)
        return (gates.mean(1) * self.count * share).sum(-1).mean()

    def _sequence(self, parameters: Parameters, x: Tensor, gates: Tensor, depths: Tensor) -> Tensor:
        """[T, D] for the states x [T, D] of one sequence, its gates [T, R] and last recursions [T]."""
        gates_every = self.router.get("gate_at", "final") == "every"
        state, added = x, torch.zeros_like(x)
        memories: dict[int, Memory] = {}
        for r in range(self.count):
            active = (depths >= r).nonzero()[:, 0]
            if len(active) == 0:
                break
            out = self.step(parameters, r, state[active], active, memories)
            gate = gates[active, r][:, None]
            if gates_every:
                out = gate * out
            last = depths[active] == r
            weight = 1 if gates_every or self.router.get("gating", "weighted") == "additive" else gate[last]
            added = added.index_copy(0, active[last], weight * out[last])
            state = state.index_copy(0, active[~last], out[~last])
        return x + added


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits z and labels y."""
    return (y * F.softplus(-z) + (1 - y) * F.softplus(z)).mean()


def group(config: dict, *arguments) -> Recursion:
    """The group of a `recursion:` section."""
    if "depth" in config:
        return RecurrentDepth(config, *arguments)
    if "router" not in config:
        return Recursion(config, *arguments)
    return {"expert": ExpertChoice, "token": TokenChoice}[config["router"].get("type", "expert")](config, *arguments)
