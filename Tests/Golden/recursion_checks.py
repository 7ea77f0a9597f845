"""What must hold of `recursion.py` and `routing.py` whatever the parameters are: limits in which a model becomes a
simpler one, sums over untied copies, values known in closed form."""

import math

import torch
from torch import Tensor

from functions import Parameters, mean_loss, rms_norm
from model import ReferenceModel
from recursion import Trace, timing_signal

WIDTH, VOCABULARY, TIME = 8, 11, 9
ATTENTION = {"mixer": {"type": "attention", "head_count": 2}, "mlp": {"hidden_size": 12}}
OTHER = {"mixer": {"type": "attention", "head_count": 4, "kv_head_count": 2}, "mlp": {"type": "gelu", "hidden_size": 10}}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def check() -> None:
    check_sharing()
    check_relaxation()
    check_early_exits()
    check_expert_choice()
    check_token_choice()
    check_shared_keys()
    check_universal()
    check_recurrent_depth()


# MARK: Small models


def model(*layers: dict, **more) -> ReferenceModel:
    return ReferenceModel({"vocabulary_size": VOCABULARY, "width": WIDTH, "layers": list(layers)} | more)


def recursive(blocks: list[dict], **recursion) -> dict:
    return {"recursion": recursion, "layers": blocks}


def routed(blocks: list[dict], count: int, router: dict, **recursion) -> dict:
    return recursive(blocks, count=count, router=router, **recursion)


def drawn(model: ReferenceModel, seed: int = 4) -> Parameters:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[-1])).requires_grad_()
        for name, shape in model.shapes().items()
    }


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs, targets = (torch.randint(VOCABULARY, (4, TIME), generator=generator) for _ in range(2))
    inputs[:, 1] = (inputs[:, 0] + 1) % VOCABULARY
    return inputs, targets


def states() -> Tensor:
    return torch.randn(4, TIME, WIDTH, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


def applied(model: ReferenceModel, parameters: Parameters, x: Tensor) -> tuple[Tensor, Trace]:
    """The model's only group on x."""
    trace = Trace()
    return model.groups[0].forward(parameters, x, trace), trace


def agree(what: str, a: Tensor, b: Tensor) -> None:
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-11), f"{what}: off by {(a - b).abs().max():.1e}"


def exact(*values: float) -> Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


def gradients(model: ReferenceModel, parameters: Parameters) -> Parameters:
    grads = torch.autograd.grad(model.loss(parameters, *batch()), list(parameters.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads)}


# MARK: Recursive and relaxed transformers


def check_sharing() -> None:
    """The maps; R = 1; tied gradients are the sums of those of untied copies."""
    maps = {
        "cycle": (9, "", [0, 1, 2, 0, 1, 2, 0, 1, 2]), "sequence": (9, "", [0, 0, 0, 3, 3, 3, 6, 6, 6]),
        "middle_cycle": (8, "middle", [0, 1, 2, 1, 2, 1, 2, 7]),
        "middle_sequence": (8, "middle", [0, 1, 1, 1, 4, 4, 4, 7]),
    }
    inputs, _ = batch()
    for name, (depth, middle, stored) in maps.items():
        unique = [ATTENTION, OTHER, ATTENTION][: 2 if middle else 3]
        layers: list[dict] = [recursive(unique, count=3, sharing=name.removeprefix("middle_"))]
        tied = model(*([OTHER] + layers + [OTHER] if middle else layers))
        layer_of = [int(block.homes.layer.rsplit(".", 1)[1]) for block in tied.blocks]
        assert layer_of == stored, f"{name}: {layer_of}"
        assert [block.index for block in tied.blocks] == list(range(depth))
        kinds = {l: {"mixer": b.mixer, "mlp": b.mlp} for l, b in zip(stored, tied.blocks)}
        untied = model(*(kinds[l] for l in stored))
        parameters = drawn(tied)

        def source(name: str) -> str:
            if not name.startswith("model.layers."):
                return name
            layer, own = name.removeprefix("model.layers.").split(".", 1)
            return f"model.layers.{stored[int(layer)]}.{own}"

        copies = {n: parameters[source(n)].detach().clone().requires_grad_() for n in untied.shapes()}
        agree(name, tied.logits(parameters, inputs), untied.logits(copies, inputs))
        sums = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for n, gradient in gradients(untied, copies).items():
            sums[source(n)] += gradient
        for n, gradient in gradients(tied, parameters).items():
            agree(f"{name}: gradient of {n}", gradient, sums[n])
    once, plain = model(recursive([ATTENTION, OTHER], count=1)), model(ATTENTION, OTHER)
    agree("R = 1", once.logits(drawn(once), inputs), plain.logits(drawn(plain), inputs))


def check_early_exits() -> None:
    """Exit r is the model cut at r; one recursion has the plain loss."""
    inputs, targets = batch()

    def exiting(count: int, **keys) -> ReferenceModel:
        return model(ATTENTION, recursive([OTHER], count=count, early_exit=keys), ATTENTION, OTHER)

    parameters = drawn(exiting(3))
    cut = {
        r: mean_loss(model(ATTENTION, *[OTHER] * r, ATTENTION, OTHER).logits(renamed(parameters, r), inputs), targets)
        for r in (1, 2, 3)
    }
    for keys, weights in [
        ({}, (1 / 3, 1 / 3, 1 / 3)), ({"mode": "weighted"}, (1 / 6, 2 / 6, 3 / 6)),
        ({"mode": "aggressive", "coefficient": 0.2}, (0.2, 0.2, 1)),
    ]:
        loss = exiting(3, **keys).loss(parameters, inputs, targets)
        agree(f"exits {keys}", loss, sum(weight * cut[r] for r, weight in zip((1, 2, 3), weights)))
    once = exiting(1, mode="weighted", distillation=0.5)
    agree("one exit", once.loss(drawn(once), inputs, targets), mean_loss(once.logits(drawn(once), inputs), targets))


def renamed(parameters: Parameters, count: int) -> Parameters:
    """Those of `check_early_exits` with `count` copies of layer 1; 4 and 5 follow it."""
    result = {}
    for name, value in parameters.items():
        if not name.startswith("model.layers."):
            result[name] = value
            continue
        layer, own = name.removeprefix("model.layers.").split(".", 1)
        places = {"0": [0], "1": range(1, count + 1), "4": [count + 1], "5": [count + 2]}[layer]
        result |= {f"model.layers.{place}.{own}": value for place in places}
    return result


def check_relaxation() -> None:
    """Factors of full rank make every use any layer; with B = 0 there is no correction and A has no gradient."""
    inputs, _ = batch()
    layer = {"mixer": ATTENTION["mixer"], "mlp": {"hidden_size": 12}}
    full = model(layer, layer)
    targets = drawn(full)
    for scale in (2, 0.5):
        relaxed = model(recursive(
            [layer], count=2, share_norms=False, relaxation={"rank": 99, "scale": scale, "targets": TARGETS}))
        parameters = drawn(relaxed, seed=7)
        # Norms, embedding and head are the full model's, matrices are not.
        for name in parameters:
            if not name.endswith("_proj.weight") and "lora" not in name:
                parameters[name] = targets[name]
        for name in [n for n in parameters if n.endswith("lora_A.weight")]:
            matrix = name.removesuffix("lora_A.weight")
            delta = targets[f"{matrix}weight"] - parameters[f"{matrix}weight".replace("layers.1", "layers.0")]
            u, sigma, vh = torch.linalg.svd(delta, full_matrices=False)
            parameters[name], parameters[name.replace("lora_A", "lora_B")] = vh, u * sigma / scale
        agree("full rank", relaxed.logits(parameters, inputs), full.logits(targets, inputs))

        parameters = drawn(relaxed)
        for name in [n for n in parameters if "lora_B" in n]:
            parameters[name] = torch.zeros_like(parameters[name]).requires_grad_()
        plain = model(recursive([layer], count=2, share_norms=False))
        agree("B = 0", relaxed.logits(parameters, inputs), plain.logits(parameters, inputs))
        for name, gradient in gradients(relaxed, parameters).items():
            assert "lora_A" not in name or (gradient == 0).all(), name
            assert "lora_B" not in name or (gradient != 0).any(), name


# MARK: Mixture of recursions


def check_expert_choice() -> None:
    x = states()
    for gating in ("weighted", "additive"):
        everything = model(routed([ATTENTION, OTHER], 3, {"capacity": [1, 1, 1], "alpha": 0.7, "gating": gating}))
        parameters = drawn(everything)
        expected = x
        for r, loop in enumerate(everything.groups[0].loops):
            out = expected
            for block in loop:
                out = block.forward(parameters, out)[0]
            gate = 0.7 * (expected @ parameters[f"model.layers.{r}.mor_router.router.weight"].T).sigmoid()
            expected = expected + (gate if gating == "weighted" else 1) * out
        agree(f"capacity 1, {gating}", applied(everything, parameters, x)[0], expected)

    # The selection: sizes, order, nesting; what is left behind stays.
    some = model(routed([ATTENTION], 3, {"capacity": [0.9, 0.5, 0.3]}))
    parameters, group, seen = drawn(some), some.groups[0], []
    step = group.step
    group.step = lambda p, r, x, at, memories: (seen.append((r, at)), step(p, r, x, at, memories))[1]
    y, _ = applied(some, parameters, x)
    for r, count in enumerate((8, 4, 2)):
        for at in [at for q, at in seen if q == r]:
            assert len(at) == count and (at.diff() > 0).all(), at
    for b in range(len(x)):
        first, second, third = ([at for q, at in seen if q == r][b] for r in range(3))
        assert set(third.tolist()) <= set(second.tolist()) <= set(first.tolist())
        left = [t for t in range(TIME) if t not in first]
        agree("tokens never chosen", y[b, left], x[b, left])

    hot = model(routed([ATTENTION], 3, {"temperature": 2}))
    doubled = {n: 2 * p if "router" in n else p for n, p in parameters.items()}
    agree("temperature", applied(hot, doubled, x)[0], applied(model(routed([ATTENTION], 3, {})), parameters, x)[0])

    # d aux / dz = (σ(z) - y) / (B n), through weights: dz/dW = x.
    one = model(routed([ATTENTION], 2, {"coefficient": 1, "capacity": [0.5, 0.3], "gating": "additive"}))
    parameters = drawn(one)
    name = "model.layers.0.mor_router.router.weight"
    z = x @ parameters[name][0].detach()
    labels = torch.zeros_like(z).scatter(1, z.topk(4, -1).indices, 1)
    aux = applied(one, parameters, x)[1].terms["router"]
    expected = torch.einsum("bt,btd->d", (z.sigmoid() - labels) / z.numel(), x)
    agree("d aux / dz", torch.autograd.grad(aux, parameters[name])[0][0], expected)

    # The auxiliary router leaves all other gradients alone.
    base, guided = (model(routed([ATTENTION], 3, {"sampling": s})) for s in ("none", "aux_router"))
    parameters = drawn(guided)
    without = gradients(base, {n: parameters[n] for n in base.shapes()})
    for n, gradient in gradients(guided, parameters).items():
        if n in without:
            agree(f"aux_router: {n}", gradient, without[n])

    # Recurrent layers see the chosen tokens as one sequence: the same as running them alone.
    lstm = model(routed([{"mixer": {"type": "lstm"}}], 2, {"capacity": [0.5, 0.3], "gating": "additive"}))
    parameters = drawn(lstm)
    z = (x @ parameters["model.layers.0.mor_router.router.weight"][0])[0]
    taken = z.topk(4).indices.sort().values
    alone = lstm.blocks[0].forward(parameters, x[:1, taken])[0]
    lstm.groups[0].config["count"] = 1
    y, _ = applied(lstm, parameters, x)
    agree("recurrent layer on chosen tokens", y[:1, taken], x[:1, taken] + alone)


def check_token_choice() -> None:
    x = states()
    token = {"type": "token", "balance_scope": "sequence"}
    for network in ("linear", "mlp"):
        deepest = model(routed([ATTENTION], 3, token | {"gating": "additive", "network": network}))
        parameters = drawn(deepest)
        group = deepest.groups[0]
        # Logits that grow with the number of recursions, for every token.
        group.network = lambda parameters, name, x: torch.arange(3, dtype=x.dtype).expand(*x.shape[:2], 3)
        out = x
        for _ in range(3):
            out = group.loops[0][0].forward(parameters, out)[0]
        y, trace = applied(deepest, parameters, x)
        agree("all tokens to the last recursion", y, x + out)
        probability = math.exp(2) / (1 + math.e + math.exp(2))
        agree("balance of one choice", trace.terms["balance"], exact(0.1 * 3 * probability))

    # Perfect balance: bal = alpha (softmax).
    group = model(routed([ATTENTION], 3, token)).groups[0]
    gates = torch.eye(3, dtype=torch.float64).repeat(1, 3, 1) * 0.3 + 0.2
    agree("perfect balance", group._balance(gates / gates.sum(-1, keepdim=True), gates.argmax(-1)), exact(1))

    # Splitting the batch: sequence scope is additive, micro-batch scope is not.
    for scope in ("sequence", "micro_batch"):
        split = model(routed([ATTENTION], 3, token | {"balance_scope": scope, "coefficient": 1}))
        parameters = drawn(split)
        whole = applied(split, parameters, x)[1].terms["balance"]
        halves = sum(applied(split, parameters, half)[1].terms["balance"] for half in x.chunk(2)) / 2
        assert (abs(whole - halves) < 1e-12) == (scope == "sequence"), scope


def check_shared_keys() -> None:
    """Attention to the first recursion's keys: chosen queries give the rows that all queries give."""
    x = states()
    router = {"gating": "additive", "coefficient": 0}
    shared = model(routed([ATTENTION], 2, router, share_key_values=True))
    parameters, group = drawn(shared), shared.groups[0]
    first = group.loops[0][0].forward(parameters, x)
    middle = x + first[0]
    everything = group.loops[1][0].forward(parameters, middle, memory=first[2])[0]
    y, _ = applied(shared, parameters, x)
    z = middle @ parameters["model.layers.1.mor_router.router.weight"][0]
    chosen = torch.zeros_like(z).scatter(1, z.topk(TIME // 2, -1).indices, 1)[..., None]
    agree("shared keys", y, middle + chosen * everything)

    # With all tokens active, new keys replace all of the first ones: no sharing at all.
    router |= {"capacity": [1, 1]}
    updated = model(routed([ATTENTION], 2, router | {"update_keys": True}, share_key_values=True))
    own = model(routed([ATTENTION], 2, router))
    agree("updated keys", applied(updated, parameters, x)[0], applied(own, parameters, x)[0])


# MARK: Universal transformer


def check_universal() -> None:
    x = states()
    block = ATTENTION | {"norm": "layernorm"}
    for kind in ("basic", "accumulated"):
        halting = {"type": kind, "loss_weight": 1}
        universal = model(recursive([block], count=6, halting=halting))
        parameters = drawn(universal) | {"model.layers.0.halt.weight": torch.zeros(1, WIDTH, dtype=torch.float64)}

        def outcome(bias: float) -> tuple[Tensor, Tensor]:
            own = parameters | {"model.layers.0.halt.bias": exact(bias)[None]}
            y, trace = applied(universal, own, x)
            return y, trace.terms["ponder"]

        steps = [x]
        for _ in range(6):
            steps.append(universal.blocks[0].forward(parameters, steps[-1])[0])
        y, ponder = outcome(40)
        agree("bias 40", y, steps[1])
        agree("bias 40: N + remainder", ponder, exact(2))
        y, ponder = outcome(math.log(0.3 / 0.7))
        weights = [0.3, 0.3, 0.3, 0.1]
        expected = torch.zeros_like(x)
        for weight, state in zip(weights, steps[1:]):
            expected = weight * state + (1 if kind == "accumulated" else 1 - weight) * expected
        agree("p = 0.3", y, expected)
        agree("p = 0.3: N + remainder", ponder, exact(4.1))

        # Weights of halted positions sum to 1, whatever the probabilities: a state that stays is the answer.
        still = model(recursive([block | {"residual": False}], count=12, halting=halting))
        own = drawn(still) | {"model.layers.0.halt.bias": exact(1)[None]}
        still.groups[0]._step = lambda parameters, r, s, memories, trace: s
        if kind == "accumulated":
            agree("sum of weights", applied(still, own, x)[0], x)

    plain = model(recursive([block], count=1, signals={"position": "none", "step": "none"}))
    parameters = drawn(plain)
    agree("one step without signals", applied(plain, parameters, x)[0], plain.blocks[0].forward(parameters, x)[0])

    signalled = model(recursive([block], count=2, signals={"position": "t2t", "step": "learned"}))
    parameters = drawn(signalled)
    signalled.groups[0]._apply = lambda parameters, r, j, x, memories, trace: x
    steps = parameters["model.layers.0.step_embedding.weight"].sum(0) * math.sqrt(WIDTH)
    expected = x + 2 * timing_signal(TIME, WIDTH, "t2t") + steps
    agree("signals add up", applied(signalled, parameters, x)[0], expected)
    signal = timing_signal(3, 4, "t2t")
    agree("t2t", signal[2], exact(math.sin(2), math.sin(2e-4), math.cos(2), math.cos(2e-4)))
    signal = timing_signal(3, 4, "paper")
    agree("paper", signal[2], exact(math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)))


# MARK: Recurrent depth


def check_recurrent_depth() -> None:
    inputs, _ = batch()
    sandwich = ATTENTION | {"norm_placement": "sandwich"}

    def split(iterations: int, backpropagated: int, injection: str = "linear") -> ReferenceModel:
        depth = {"mean": iterations, "backpropagated": backpropagated, "sampling": "fixed"}
        return model(sandwich, recursive([sandwich], depth=depth, state="zero", injection=injection), sandwich)

    for injection in ("linear", "add"):
        models = [split(4, k, injection) for k in (0, 2, 4)]
        parameters = drawn(models[0])
        outputs = [m.logits(parameters, inputs) for m in models]
        agree("logits depend on n + k only", outputs[0], outputs[1])
        agree("logits depend on n + k only", outputs[0], outputs[2])
        none, some, full = (gradients(m, parameters) for m in models)
        for name in parameters:
            in_front = name.startswith(("model.embed", "model.layers.0.", "model.layers.1."))
            assert ((none[name] == 0).all() if in_front else (none[name] != 0).any()), name
            if name.startswith("model.layers.1."):
                assert not torch.allclose(some[name], full[name]), name
                assert (some[name] != 0).any() or (full[name] == 0).all(), name

    # The gradient of k iterations is that of a model of k iterations that starts from the constant s_n.
    parameters = drawn(split(4, 2))
    group = split(4, 2).groups[1]
    e = states().requires_grad_()
    s = torch.zeros_like(e)
    for i in range(4):
        s = group._iteration(parameters, s.detach() if i == 2 else s, e)
    s = rms_norm(s, parameters["model.norm.weight"], 1e-5)
    y = group.forward(parameters, e, Trace())
    agree("truncated", *(torch.autograd.grad(output.pow(3).sum(), e)[0] for output in (y, s)))

    # Norms close the core: with weights 1 its states have root mean square 1.
    ones = {n: torch.ones_like(p) if "norm" in n else p for n, p in parameters.items()}
    s = group._iteration(ones, torch.zeros_like(e), e)
    assert (s.square().mean(-1) - 1).abs().max() < 1e-3
