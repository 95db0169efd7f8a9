"""What changes the weights: the optimizers by name, the learning rate, the average."""
import contextlib
from collections import defaultdict

import torch
from schedulefree import AdamWScheduleFree

from config import UserError
from engine.cuda_graphs import GraphedUpdate
from engine.devices import is_compiled


def matmul_dtype(device):
    """Returns bfloat16, or float32 on CPUs that only emulate it: there it takes 7 times as long."""
    emulated = device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported()
    return torch.float32 if emulated else torch.bfloat16


@torch.compiler.disable                        # matmuls alone: nothing to fuse
def orthogonalize(X, steps=5):
    """Returns matrices (n, rows, columns) made roughly semi-orthogonal.

    Singular values end between 0.7 and 1.2: Newton-Schulz with the coefficients of
    kellerjordan.github.io/posts/muon. Each step is X (3.4445 - 4.7750 A + 2.0315 A^2).
    """
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    tall = X.shape[1] > X.shape[2]
    for _ in range(steps):
        A = X.mT @ X if tall else X @ X.mT     # (n, side, side) of the smaller side
        B = torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315)
        B.diagonal(dim1=1, dim2=2).add_(3.4445)
        X = X @ B if tall else B @ X
    return X


def update(y, grad, state, rates, knobs):
    """One step of Muon for a stack of matrices (n, rows, columns), in place.

    rates: tensors (lr, share), as a recorded CUDA graph is to see new numbers; share is how much z
    counts in the average x at this step. knobs: (momentum, average, weight decay); average is the
    interpolation of schedule-free, see `Muon`.
    """
    (lr, share), (beta, average, decay) = rates, knobs
    momentum = state["momentum"]
    momentum.lerp_(grad, 1 - beta)
    nesterov = grad.lerp(momentum, beta)
    # AdamW's updates have about 0.2 in root mean square
    scale = 0.2 * max(y.shape[1:]) ** 0.5
    step = lr * (scale * orthogonalize(nesterov.to(matmul_dtype(y.device))) + decay * y)
    if average:
        # b = average: z' = z - step; x' = (1 - share) x + share z'; y' = (1 - b) z' + b x', with x
        # taken from y = (1 - b) z + b x
        y.lerp_(state["z"], share).add_(step * (average * (1 - share) - 1))
        state["z"].sub_(step)
    else:
        y.sub_(step)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized, at the size of AdamW's updates; with `average` schedule-free.

    The same numbers as torch.optim.Muon(adjust_lr_fn="match_rms_adamw"), but matrices of one shape
    are one stack and updated at once: they are many and small, and a loop over them is mostly
    overhead. The parameters become views of the stacks, so nothing is copied back. With `compiled`
    each number is read once, and all is one CUDA graph: some 200 launches take the host 4 ms.

    average: 0, or the interpolation b of schedule-free (arXiv 2405.15682), as in
    schedulefree.ScheduleFreeWrapper. Training happens at y = (1 - b) z + b x, where z takes the
    steps and x is the average of all z.
    """

    def __init__(self, params, weight_decay=0.0, momentum=0.95, average=0.0, compiled=False):
        by_shape = defaultdict(list)
        for p in params:
            by_shape[p.shape].append(p)
        defaults = dict(lr=0.0, weight_decay=weight_decay, momentum=momentum, average=average,
                        weight_sum=0.0, lr_max=0.0, train_mode=True)
        super().__init__([dict(params=group) for group in by_shape.values()], defaults)
        self.stacks = []                       # (n, rows, columns) for each shape
        for group in by_shape.values():
            stack = torch.stack([p.data for p in group])
            for p, row in zip(group, stack):
                p.data = row
            self.stacks.append(stack)
        self.grads = [torch.empty_like(stack) for stack in self.stacks]
        self.rates = torch.zeros(2, device=self.stacks[0].device).unbind()
        self.update = torch.compile(update, dynamic=False) if compiled else update
        self.update_all = GraphedUpdate(self.update_stacks) if compiled else self.update_stacks

    def stacked(self):
        """Yields (group, its weights (n, rows, columns))."""
        for group, stack in zip(self.param_groups, self.stacks):
            for p, row in zip(group["params"], stack.unbind()):
                assert p.data_ptr() == row.data_ptr(), "weights were moved after optimizer creation"
            yield group, stack

    @torch.no_grad()
    def step(self):
        for (group, y), grad in zip(self.stacked(), self.grads):
            torch.stack([p.grad for p in group["params"]], out=grad)
            state = self.state[group["params"][0]]
            if not state:
                state["momentum"] = torch.zeros_like(y)
                if group["average"]:
                    state["z"] = y.clone()
            # steps of the warm-up count less in the average
            group["lr_max"] = max(group["lr_max"], group["lr"])
            group["weight_sum"] += group["lr_max"] ** 2
        lr, share = self.rates                 # the same in every group
        lr.fill_(group["lr"])
        share.fill_(group["lr_max"] ** 2 / (group["weight_sum"] or 1))
        self.update_all()

    def update_stacks(self):
        for (group, y), grad in zip(self.stacked(), self.grads):
            state = self.state[group["params"][0]]
            knobs = group["momentum"], group["average"], group["weight_decay"]
            self.update(y, grad, state, self.rates, knobs)

    @torch.no_grad()
    def eval(self):
        """From y to x, the average; `averaged` below undoes it."""
        for group, y in self.stacked():
            z = self.state[group["params"][0]].get("z")
            if z is not None and group["train_mode"]:
                y.lerp_(z, 1 - 1 / group["average"])
            group["train_mode"] = False


def adamw(groups, c):
    return torch.optim.AdamW(groups, betas=(c.beta1, c.beta2))


def schedulefree_adamw(groups, c):
    return AdamWScheduleFree(groups, betas=(c.beta1, c.beta2))


def muon(params, c, average=0.0):
    return Muon(params, c.weight_decay, average=average, compiled=is_compiled(c, params[0].device))


def schedulefree_muon(params, c):
    return muon(params, c, c.beta1)


# name: (for the matrices of the blocks, or None; for all else; whether the rate decays at the end)
OPTIMIZERS = {
    "schedulefree": (None, schedulefree_adamw, False),
    "muon_schedulefree": (schedulefree_muon, schedulefree_adamw, False),
    "adamw": (None, adamw, True),
    "muon": (muon, adamw, True),
}


def check_gradients(model):
    """UserError where a parameter that trains has no gradient after the first backward pass."""
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if unused:
        raise UserError(f"{', '.join(unused)}: no gradient after the first backward pass, as the "
                        "network does not use it; delete it, use it in forward, or freeze it with "
                        "requires_grad_(False)")


class Optimizer:
    """One or several torch optimizers as one. Every parameter is in exactly one of their groups."""

    def __init__(self, model, config):
        if config.optimizer not in OPTIMIZERS:
            raise UserError(f"no optimizer {config.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        for_matrices, for_rest, self.decays = OPTIMIZERS[config.optimizer]
        kinds = model.parameter_groups()
        decay = dict(matrices=config.weight_decay, head=config.weight_decay, norms=0.0, tables=0.0)
        groups = [dict(params=kinds[kind], weight_decay=decay[kind]) for kind in decay]
        if for_matrices:
            self.parts = [for_rest(groups[1:], config), for_matrices(kinds["matrices"], config)]
        else:
            self.parts = [for_rest(groups, config)]
        groups = [group for part in self.parts for group in part.param_groups]
        if any(g["weight_decay"] and g.get("decoupled_weight_decay") is False for g in groups):
            # in torch's Adam, NAdam and RAdam it then goes through the moments (arXiv 1711.05101)
            raise UserError(f"optimizer {config.optimizer!r} adds weight_decay to the gradient: "
                            "give it decoupled_weight_decay=True, or set --weight_decay=0")
        grouped = [id(p) for group in groups for p in group["params"]]
        expected = [id(p) for p in model.parameters() if p.requires_grad]
        assert sorted(grouped) == sorted(expected), "a parameter is in no group, or in two"
        self.set_train_mode()

    def set_train_mode(self):
        """Marks the weights as the training weights, without changing them.

        schedulefree's own train() would recompute them, with rounding errors.
        """
        for part in self.parts:
            for group in part.param_groups:
                if "train_mode" in group:
                    group["train_mode"] = True

    def step(self, lr):
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
        self.zero_grad()

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self):
        return [part.state_dict() for part in self.parts]

    def restore(self, found):
        """Takes over the state in a checkpoint's dict."""
        try:
            for part, state in zip(self.parts, found["optimizer"], strict=True):
                for own, group in zip(part.param_groups, state["param_groups"]):
                    if own.keys() - group.keys():      # of another optimizer; torch counts them
                        raise ValueError("other groups of parameters")
                part.load_state_dict(state)
        except Exception as error:
            path, name = found["path"], found["config"]["optimizer"]
            raise UserError(f"{path}: no state of the optimizer {name!r} ({error}); start anew "
                            f"from its weights: --init_from={path} and another --out_dir") from None
        self.set_train_mode()


@contextlib.contextmanager
def averaged(model, optimizer):
    """Inside, the model holds the averaged weights and is in eval mode.

    Afterwards the training weights are back bit for bit: to switch by arithmetic, there and back,
    would change them.
    """
    kept = [p.detach().clone() for p in model.parameters()]
    model.eval()
    for part in optimizer.parts:
        if hasattr(part, "eval"):
            part.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for p, weights in zip(model.parameters(), kept):
                p.copy_(weights)
        optimizer.set_train_mode()
        model.train()


def learning_rate(config, optimizer, step):
    """Linear warm-up, then flat for schedule-free, which averages; others decay to 0 at the end."""
    scale = min(1.0, (step + 1) / max(1, config.warmup * config.max_steps))
    if optimizer.decays:
        left = config.max_steps - step
        scale = min(scale, left / max(1, config.decay * config.max_steps))
    return config.learning_rate * scale
