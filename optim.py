"""What changes the weights: the optimizers by name, the learning rate over a run, and the average that is evaluated."""
import contextlib
from collections import defaultdict

import torch
from schedulefree import AdamWScheduleFree

from config import UserError


def orthogonal(X, steps=5):
    """The nearest semi-orthogonal matrix, roughly: singular values end between 0.7 and 1.2 (Newton-Schulz with the coefficients
    of kellerjordan.github.io/posts/muon). X (n, rows, columns) -> the same, in bfloat16: it need not be exact."""
    X = X.bfloat16()
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        tall = X.shape[1] > X.shape[2]
        A = X.mT @ X if tall else X @ X.mT                     # the smaller side squared
        B = torch.baddbmm(A, A, A, beta=-4.7750, alpha=2.0315)
        B.diagonal(dim1=1, dim2=2).add_(3.4445)
        X = X @ B if tall else B @ X                           # X (3.4445 - 4.7750 A + 2.0315 A^2)
    return X


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, at the size of AdamW's updates. The same numbers as torch.optim.Muon(adjust_lr_fn=
    "match_rms_adamw"), but matrices of one shape are one stack, updated at once: the layers are many and small, and most
    of the time of a loop over them is its overhead. The parameters become views of the stacks, so nothing is copied back. `average`
    makes it schedule-free, as schedulefree.ScheduleFreeWrapper does: 0.9 trains at y = 0.1 z + 0.9 x, where z takes the steps and
    x is their average; 0: it is not."""

    def __init__(self, params, weight_decay=0.0, momentum=0.95, average=0.0):
        shapes = defaultdict(list)
        for p in params:
            shapes[p.shape].append(p)
        super().__init__([dict(params=ps) for ps in shapes.values()],
                         dict(lr=0.0, weight_decay=weight_decay, momentum=momentum, average=average, weight_sum=0.0, lr_max=0.0, train_mode=True))
        self.stacks = [torch.stack([p.data for p in ps]) for ps in shapes.values()]            # (n, rows, columns)
        for ps, stack in zip(shapes.values(), self.stacks):
            for p, row in zip(ps, stack):
                p.data = row

    def stacked(self):
        """-> (group, its weights (n, rows, columns))."""
        for group, stack in zip(self.param_groups, self.stacks):
            assert all(p.data_ptr() == row.data_ptr() for p, row in zip(group["params"], stack.unbind())), \
                "weights were moved after their optimizer was made"
            yield group, stack

    @torch.no_grad()
    def step(self):
        for group, y in self.stacked():
            params, beta = group["params"], group["average"]
            state, grad = self.state[params[0]], torch.stack([p.grad for p in params])
            if not state:
                state.update(momentum=torch.zeros_like(y), **({"z": y.clone()} if beta else {}))
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            scale = 0.2 * max(y.shape[1:]) ** 0.5              # AdamW's updates have about 0.2 in root mean square
            update = orthogonal(grad.lerp_(state["momentum"], group["momentum"]))              # Nesterov's look ahead
            update, lr = torch.add(update, y, alpha=group["weight_decay"] / scale), group["lr"] * scale
            if beta:                                           # arXiv 2405.15682; steps of the warm-up count less in the average
                group["lr_max"] = max(group["lr_max"], group["lr"])
                group["weight_sum"] += group["lr_max"] ** 2
                share = group["lr_max"] ** 2 / group["weight_sum"]
                y.lerp_(state["z"], share).add_(update, alpha=lr * (beta * (1 - share) - 1))
                state["z"].sub_(update, alpha=lr)
            else:
                y.sub_(update, alpha=lr)

    @torch.no_grad()
    def eval(self):
        """From y to x, the average; what `averaged` below undoes."""
        for group, y in self.stacked():
            z = self.state[group["params"][0]].get("z")
            if z is not None and group["train_mode"]:
                y.lerp_(z, 1 - 1 / group["average"])
            group["train_mode"] = False


def adamw(groups, c):
    return torch.optim.AdamW(groups, betas=(c.beta1, c.beta2))


def schedulefree_adamw(groups, c):
    return AdamWScheduleFree(groups, betas=(c.beta1, c.beta2))


def muon(params, c):
    return Muon(params, c.weight_decay)


def schedulefree_muon(params, c):
    return Muon(params, c.weight_decay, average=c.beta1)


OPTIMIZERS = {                     # name: (for the matrices of the blocks, or None; for the rest; does the rate fall at the end?)
    "schedulefree": (None, schedulefree_adamw, False),         # arXiv 2405.15682
    "muon_schedulefree": (schedulefree_muon, schedulefree_adamw, False),
    "adamw": (None, adamw, True),
    "muon": (muon, adamw, True),
}


class Optimizer:
    """One or two torch optimizers as one. Every parameter is in exactly one of their groups."""

    def __init__(self, model, config, part=None):
        """part: (module of the model, the states of an Optimizer that trained it): it goes on where that one stopped."""
        if config.optimizer not in OPTIMIZERS:
            raise UserError(f"no optimizer {config.optimizer!r}; there are {', '.join(OPTIMIZERS)}")
        for_matrices, for_rest, self.falls = OPTIMIZERS[config.optimizer]
        matrices, head, norms, tables = [], [], [], []
        apart = {id(p) for p in part[0].parameters()} if part else {}
        for name, p in model.named_parameters():
            if id(p) in apart:
                continue
            kind = matrices if name.startswith("blocks.") and p.ndim == 2 else head if name.startswith("head.") else \
                norms if p.ndim == 1 else tables
            kind.append(p)
        groups = [dict(params=matrices if for_matrices is None else [], weight_decay=config.weight_decay),
                  dict(params=head, weight_decay=config.weight_decay), dict(params=norms, weight_decay=0.0),
                  dict(params=tables, weight_decay=config.embed_decay)]
        self.parts = [for_rest([group for group in groups if group["params"]], config)]
        if for_matrices is not None:
            self.parts.append(for_matrices(matrices, config))
        if part:
            begun = Optimizer(part[0], config)
            begun.load_state_dict(part[1])
            self.parts += begun.parts
        seen = [id(p) for part in self.parts for group in part.param_groups for p in group["params"]]
        assert sorted(seen) == sorted(id(p) for p in model.parameters()), "a parameter is in no group, or in two"
        self.set_train_mode()

    def set_train_mode(self):
        """Say that the weights are those to train, without touching them (train() would compute them anew, and round)."""
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

    def load_state_dict(self, states):
        for part, state in zip(self.parts, states):
            part.load_state_dict(state)
        self.set_train_mode()


@contextlib.contextmanager
def averaged(model, optimizer):
    """Inside, the model holds the averaged weights (schedule-free evaluates those) and is in eval mode; afterwards the training
    weights are back bit for bit: switching by arithmetic, there and back, would change them."""
    kept = [p.detach().clone() for p in model.parameters()]
    model.eval()
    for part in optimizer.parts:
        if hasattr(part, "eval"):
            part.eval()
    try:
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(model.parameters(), kept):
                p.copy_(old)
        optimizer.set_train_mode()
        model.train()


def learning_rate(config, optimizer, step):
    """Linear warm-up; then flat for schedule-free, which averages instead; the others fall linearly at the end."""
    scale = min(1.0, (step + 1) / max(1, config.warmup * config.max_steps))
    if optimizer.falls:
        scale = min(scale, (config.max_steps - step) / max(1, config.decay * config.max_steps))
    return config.learning_rate * scale
