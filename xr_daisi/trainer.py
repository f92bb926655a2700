"""The training loop behind `train_prior`: schedule, moving average, validation, checkpoints."""

from __future__ import annotations

import copy
import hashlib
import math
import time
import warnings
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from xr_daisi.checkpoints import read_checkpoint, write_checkpoint
from xr_daisi.devices import fast_bfloat16
from xr_daisi.errors import DivergenceError, problem
from xr_daisi.networks import schedule_at
from xr_daisi.progress import progress_bar

if TYPE_CHECKING:
    from xr_daisi.networks import Network
    from xr_daisi.state import Normalization
    from xr_daisi.streaming import History

__all__ = ["Budget", "Trainer"]

VALIDATIONS = 40
VALIDATION_STATES = 256
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Budget:
    """Steps and minutes, whichever end first; 4000 steps where neither is given."""

    steps: int | None = None
    minutes: float | None = None

    def fraction(self, steps: int, seconds: float) -> float:
        """Share of the budget used, at most 1."""
        limit = self.steps if self.steps or self.minutes else 4000
        parts = [0.0]
        if limit:
            parts.append(steps / limit)
        if self.minutes:
            parts.append(seconds / (60.0 * self.minutes))
        return min(1.0, max(parts))


@dataclass
class _Progress:
    """Where a training stands; everything but tensors that a checkpoint holds."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    validations: int = 0  # marks of the budget that were passed
    without_improvement: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    running_loss: float = 2.0
    losses: list[list[float]] = field(default_factory=list)


class Trainer:
    """Train a velocity network; see `train_prior` for the options.

    Parameters
    ----------
    network : UNet or MLP
        Trained in place.
    history : History
        The states.
    normalization : Normalization
        Its affine part is applied here; transforms were applied by `history`.
    train, valid : pair of int
        Ranges along the history's time.
    batch_size : int
        States per step.
    budget : Budget
        When to stop.
    device : torch.device
        Where to train.
    seed : int
        Of batches and noise.
    roll : tuple of int
        Axes of the state tensor along which states are shifted at random.
    learning_rate, warmup, weight_decay, ema, clip : float
        See `train_prior`.
    patience : int or None
        Validations without improvement before stopping.
    autocast : bool or None
        bfloat16 in the network.
    checkpoint : Path or None
        File of the training's state.
    progress : bool or None
        Show a bar.
    """

    def __init__(
        self,
        network: Network,
        history: History,
        normalization: Normalization,
        *,
        train: tuple[int, int],
        valid: tuple[int, int],
        batch_size: int,
        budget: Budget,
        device: torch.device,
        seed: int,
        roll: tuple[int, ...],
        learning_rate: float,
        warmup: float,
        weight_decay: float,
        ema: float,
        clip: float,
        patience: int | None,
        autocast: bool | None,
        checkpoint: Path | None,
        progress: bool | None,
    ) -> None:
        self.network = network.to(device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.best: dict[str, Tensor] = {}
        self.history, self.train, self.valid = history, train, valid
        self.batch_size, self.budget, self.device, self.seed = batch_size, budget, device, seed
        self.roll, self.learning_rate, self.warmup = roll, learning_rate, warmup
        self.weight_decay, self.ema, self.clip, self.patience = weight_decay, ema, clip, patience
        self.autocast = fast_bfloat16(device) if autocast is None else autocast
        self.checkpoint, self.show = checkpoint, progress
        self.mean = torch.from_numpy(np.asarray(normalization.mean)).to(device, torch.float32)
        self.std = torch.from_numpy(np.asarray(normalization.std)).to(device, torch.float32)
        holes = normalization.holes
        masked = holes is not None and bool(holes.any())
        self.keep = torch.from_numpy(~np.asarray(holes)).to(device) if masked else None
        decay = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0}],
            lr=learning_rate,
        )
        self.progress = _Progress()

    # -- the loop ---------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """Train until the budget or the patience ends; returns what the card says of it."""
        self._resume()
        p = self.progress
        validation = self._validation_batches()
        started = time.monotonic() - p.seconds
        saved = time.monotonic()
        stopped = "budget"
        with progress_bar(
            self.show, total=100.0, unit="%", desc="training", initial=100.0 * self._fraction()
        ) as bar:
            while self._fraction() < 1.0:
                for x in self._epoch():
                    loss = self._step(x, self._fraction())
                    p.step, p.batch = p.step + 1, p.batch + 1
                    p.running_loss += (loss - p.running_loss) / min(p.step, 100)
                    p.seconds = time.monotonic() - started
                    if math.floor(self._fraction() * VALIDATIONS) > p.validations:
                        self._validate(validation)
                        # Validating counts: a budget in minutes is one of the wall clock.
                        p.seconds = time.monotonic() - started
                        p.validations = math.floor(self._fraction() * VALIDATIONS)
                    bar.set_postfix(self._shown_losses(), refresh=False)
                    bar.update(100.0 * self._fraction() - bar.n)
                    if self.checkpoint and time.monotonic() - saved > CHECKPOINT_SECONDS:
                        self._save(self.checkpoint)
                        saved = time.monotonic()
                    if self.patience is not None and p.without_improvement >= self.patience:
                        stopped = "no improvement"
                        break
                    if self._fraction() >= 1.0:
                        break
                else:
                    p.epoch, p.batch = p.epoch + 1, 0
                    continue
                break
        if self.checkpoint:
            self.checkpoint.unlink(missing_ok=True)
        return {
            "steps": p.step,
            "epochs": p.epoch,
            "minutes": round(p.seconds / 60.0, 2),
            "stopped_by": stopped,
            "device": self.device.type,
            "autocast": "bfloat16" if self.autocast else None,
            "parameters": self.network.parameter_count,
            "loss": round(p.running_loss, 5),
            "validation_loss": round(p.best_loss, 5) if validation else None,
            "best_step": p.best_step if validation else p.step,
            "losses": p.losses,
        }

    def best_network(self) -> Network:
        """Return the weights with the best validation, or the last average, on the CPU."""
        if self.best:
            self.average.load_state_dict(self.best)
        return self.average.to("cpu")

    def _shown_losses(self) -> dict[str, float]:
        p = self.progress
        shown = {"step": p.step, "loss": p.running_loss}
        if p.losses and len(p.losses[-1]) > 2:
            shown |= {"validation": p.losses[-1][2], "best": p.best_loss}
        return shown

    def _fraction(self) -> float:
        return self.budget.fraction(self.progress.step, self.progress.seconds)

    def _epoch(self) -> Any:
        p = self.progress
        batches = self.history.batches(*self.train, self.batch_size, seed=self.seed, epoch=p.epoch)
        for number, x in enumerate(batches):
            if number >= p.batch:  # those before were trained on before an interruption
                yield x

    def _step(self, x: np.ndarray, fraction: float) -> float:
        generator = self._generator("step", self.progress.step)
        x1 = self._shifted(self._normalised(x))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self._schedule(fraction)
        loss = self._loss(self.network, x1, generator)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(
                problem(
                    "training loss",
                    f"{value} at step {self.progress.step}",
                    "a finite number",
                    f"lower learning_rate (now {self.learning_rate:g})",
                )
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        # A long average would remember the first weights of a short training.
        decay = min(self.ema, (1.0 + self.progress.step) / (10.0 + self.progress.step))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.network.parameters(), strict=True)
            for kept, new in pairs:
                kept.lerp_(new, 1.0 - decay)
        return value

    def _normalised(self, x: np.ndarray) -> Tensor:
        return self._masked((torch.from_numpy(x).to(self.device) - self.mean) / self.std)

    def _masked(self, x: Tensor) -> Tensor:
        """Put zeros into holes, where the network sees them at every t."""
        return x if self.keep is None else torch.where(self.keep, x, 0.0)

    def _loss(self, network: nn.Module, x1: Tensor, generator: torch.Generator) -> Tensor:
        n = x1.shape[0]
        # Stratified times: the same expectation as independent ones, less noise in the gradient.
        offsets = torch.rand(n, generator=generator, device=self.device)
        t = (torch.arange(n, device=self.device) + offsets) / n
        t = t[torch.randperm(n, generator=generator, device=self.device)]
        z = self._masked(torch.randn(x1.shape, generator=generator, device=self.device))
        alpha, beta, d_alpha, d_beta = schedule_at(self.network.interpolant, t, x1)
        context = (
            torch.autocast(self.device.type, torch.bfloat16) if self.autocast else nullcontext()
        )
        # Dropout draws from torch's own generator, which is lent a seed and given back as it was;
        # a seed of its own, or the same random numbers would be behind mask and noise.
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices), context:
            seed = torch.randint(2**62, (), generator=generator, device=self.device)
            torch.manual_seed(int(seed))
            b = network(alpha * z + beta * x1, t)
        error = (b.float() - (d_alpha * z + d_beta * x1)).square()
        # What the network says in holes is not asked for.
        loss: Tensor = error.mean() if self.keep is None else error[:, self.keep].mean()
        return loss

    def _schedule(self, fraction: float) -> float:
        if fraction < self.warmup:
            return (fraction + 1e-3) / (self.warmup + 1e-3)
        return 0.5 * (1.0 + math.cos(math.pi * (fraction - self.warmup) / (1.0 - self.warmup)))

    def _shifted(self, x: Tensor) -> Tensor:
        if not self.roll:
            return x
        rng = np.random.default_rng([self.seed, self.progress.step, 1])
        parts = []
        for state in x:
            shifts = [int(rng.integers(state.shape[axis - 1])) for axis in self.roll]
            parts.append(torch.roll(state, shifts, dims=[axis - 1 for axis in self.roll]))
        return torch.stack(parts)

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        text = f"{self.seed}|{purpose}|{number}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1
        return torch.Generator(device=self.device).manual_seed(key)

    # -- validation -------------------------------------------------------------------------------

    def _validation_batches(self) -> list[np.ndarray]:
        """Evenly spaced states of the validation period, the same at every validation."""
        start, stop = self.valid
        if stop <= start:
            return []
        wanted = min(stop - start, -(-VALIDATION_STATES // self.history.per_time))
        times = np.linspace(start, stop - 1, wanted).round().astype(int).tolist()
        parts = [self.history.read(time, time + 1) for time in times]
        x = np.concatenate(parts)[:VALIDATION_STATES]
        return [x[i : i + self.batch_size] for i in range(0, x.shape[0], self.batch_size)]

    def _validate(self, batches: list[np.ndarray]) -> None:
        p = self.progress
        if not batches:
            p.losses.append([p.step, round(p.running_loss, 5)])
            return
        total, count = 0.0, 0
        with torch.no_grad():
            for number, x in enumerate(batches):
                x1 = self._normalised(x)
                loss = self._loss(self.average, x1, self._generator("validation", number))
                total, count = total + loss.item() * x.shape[0], count + x.shape[0]
        loss_value = total / count
        p.losses.append([p.step, round(p.running_loss, 5), round(loss_value, 5)])
        p.without_improvement += 1
        if loss_value < p.best_loss:
            p.best_loss, p.best_step, p.without_improvement = loss_value, p.step, 0
            self.best = {k: v.detach().clone() for k, v in self.average.state_dict().items()}

    # -- checkpoints ------------------------------------------------------------------------------

    def _fingerprint(self) -> dict[str, Any]:
        static = self.network.static.detach().cpu()
        return {
            "state": self.history.spec.to_dict(),
            "network": self.network.config.to_dict(),
            "train": list(self.train),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "steps": self.budget.steps,
            "data": [_summary(self.mean), _summary(self.std), list(self.history.transforms)],
            "static fields": _summary(static) if static.numel() else None,
            "holes": None if self.keep is None else _summary((~self.keep).float()),
            "roll": list(self.roll),
            "optimiser": [self.learning_rate, self.warmup, self.weight_decay, self.ema, self.clip],
        }

    def _save(self, path: Path) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in entry.items()}
        try:
            write_checkpoint(path, tensors, asdict(self.progress), self._fingerprint())
        except OSError as error:
            # Hours of training are worth more than the checkpoint.
            warnings.warn(
                f"checkpoint {path} could not be written ({error}); the training goes on",
                RuntimeWarning,
                stacklevel=2,
            )

    def _resume(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        tensors, progress = read_checkpoint(self.checkpoint, self._fingerprint())

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                k.removeprefix(f"{prefix}."): v.to(self.device)
                for k, v in tensors.items()
                if k.startswith(f"{prefix}.")
            }

        self.network.load_state_dict(part("network"))
        self.average.load_state_dict(part("average"))
        self.best = part("best")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer").items():
            index, entry = key.split(".", 1)
            state.setdefault(int(index), {})[entry] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.progress = _Progress(**progress)


def _summary(values: Tensor) -> list[float]:
    """Two numbers that tell fields apart, but not their rounding."""
    weights = torch.linspace(1.0, 2.0, values.numel(), dtype=torch.float64)
    flat = values.detach().cpu().double().reshape(-1)
    return [float(f"{v:.5g}") for v in (flat.abs().mean().item(), (weights * flat).mean().item())]
