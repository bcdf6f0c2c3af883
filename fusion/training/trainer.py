"""The training loop: epochs of augmented windows, early stopping, and a state that can be saved and restored."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ...data.errors import InputError
from ...data.windows.batches import in_batches
from ...data.windows.corpus import Corpus, Windows, cut, plan_windows
from ...data.windows.placement import each_cut
from ..config import Config
from ..distributed import gathered, num_processes, process_index
from ..evaluation.metrics import pooled_ccc, va_moments
from ..evaluation.predict import predict_va
from ..models.base import VAModel
from .augment import corrupt
from .average import WeightAverage
from .labelled import crossfit_folds
from .limits import Limits
from .losses import total_loss, typical_error
from .resume_state import StateFile
from .schedule import Course, learning_rate

Tensors = dict[str, Tensor]
Log = Callable[[dict[str, Any]], None]  # receives one event


def fit(
    model: VAModel,
    corpus: Corpus,
    training: Sequence[int],
    validation: Sequence[int],
    config: Config,
    *,
    errors: Tensor | None = None,
    log: Log = lambda event: None,
    file: StateFile | None = None,
) -> None:
    """Trains a model in place and leaves it with the weights that `train.keep` names.

    Without validation clips these are the last.

    Args:
        errors: (N, M) out-of-fold errors of each stream, NaN where unknown, for a model with a gate.
        log: called once per epoch with losses, score and speed.
        file: of the state, for resuming. However often training is stopped, the same weights result, bit for bit on a
            CPU.
    """
    trainer = Trainer(model, corpus, training, config, errors)
    if file is not None and (state := file.load()):
        trainer.restore(*state)
    course = trainer.course
    while course.epoch < config.train.epochs and not _over(trainer):
        event = {"event": "epoch", "epoch": course.epoch}
        event |= trainer.epoch(lambda: file.offer_within(trainer.state) if file is not None else None)
        if validation:
            event["val"] = trainer.validate(validation)
            reached = -1.0 if math.isnan(event["val"]["mean"]) else event["val"]["mean"]
            if course.note(reached, config.train) and config.train.keep == "best":
                trainer.keep()
        log(event)
        course.epoch += 1
        if file is not None:
            file.offer(trainer.state)
    trainer.finish()


def _over(trainer: Trainer) -> bool:
    """True if the best epoch is kept, and the validation score has not improved for `train.patience` epochs."""
    course = trainer.course
    return bool(trainer.best) and course.epoch - 1 - course.best_epoch >= trainer.config.train.patience


class Trainer:
    """A model with everything that its training carries from step to step.

    Args:
        model: trained in place; its normalisation is fitted to the training clips.
        corpus: holds the training clips.
        training: their positions.
        config: its seed determines the order of windows and their augmentation.
        errors: (N, M) out-of-fold errors of each stream, NaN where unknown, for a model with a gate.
    """

    def __init__(
        self, model: VAModel, corpus: Corpus, training: Sequence[int], config: Config, errors: Tensor | None
    ) -> None:
        config = settled(config, corpus.device).on_grid(corpus.hz)
        self.model, self.corpus, self.training, self.config = model, corpus, training, config
        self.window_steps, self.hop_steps = config.data.steps_on(corpus)
        model.fit_normalisation(corpus, training)
        shape, device = corpus.mask.shape, corpus.device
        self.errors = torch.full(shape, torch.nan, device=device) if errors is None else errors
        self.sigma = typical_error(self.errors)
        if model.learns_reliability:
            folds = [] if errors is None else crossfit_folds(corpus, training, config)
            model.fit_evidence(corpus, training, folds, self.sigma)
        self.course = Course()
        self.rng = np.random.default_rng(config.seed)
        self.generator = torch.Generator(device).manual_seed(config.seed + process_index())
        if process_index():  # its dropout is its own too
            torch.manual_seed(config.seed + process_index())
        train = config.train
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
        )
        self.average = WeightAverage(model, train.ema) if train.ema else None
        self.best: Tensors = {}
        self.plan: NDArray[np.int64] | None = None
        self.sums: Tensors = {}
        self.forward = self._shared() if num_processes() > 1 else model

    @property
    def judged(self) -> VAModel:
        """The model that is validated and kept: the one that is trained, or the average of its weights."""
        return self.model if self.average is None else self.average.model

    def _shared(self) -> DistributedDataParallel:
        """The model for several processes. Its buffers never differ; a search for unused weights costs each step."""
        device = self.corpus.device
        return DistributedDataParallel(
            self.model,
            [device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            find_unused_parameters=self._any_unused(),
        )

    def _any_unused(self) -> bool:
        """True if the loss of a window does not depend on some weight; draws no random numbers."""
        model = self.model
        plan = plan_windows(self.corpus, self.training[:1], self.window_steps, self.hop_steps)[:1]
        windows = cut(self.corpus, plan, self.window_steps)
        terms = total_loss(model.eval()(windows), windows, self.errors[windows.steps], self.sigma, self.config.loss)
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(terms["loss"], weights, allow_unused=True)
        return any(gradient is None for gradient in gradients)

    def epoch(self, pause: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Trains the rest of an epoch.

        Returns:
            `{"lr", "loss": mean of each term, "windows_per_s"}` and `Limits.figures`.

        Args:
            pause: called after every step.

        Raises:
            InputError: if the loss is no longer finite.
        """
        course, limits = self.course, Limits(self.corpus.device)
        plan = self._begin() if self.plan is None else self.plan
        batches = in_batches(plan, self.window_steps, self.config.train.batch_size)
        own = [replace(batch, rows=self._share(batch.rows)) for batch in batches[course.batch :]]
        within = (np.arange(len(batches)) + 0.5) / len(batches)
        progress = (course.epoch + within) / self.config.train.epochs
        factor = self.model.rate_factor
        rates = [factor * learning_rate(self.config.train, place, course.num_cuts) for place in progress.tolist()]
        self.forward.train()
        for windows in limits.timed(each_cut(self.corpus, own)):
            terms = self.step(windows, rates[course.batch])
            for name, value in terms.items():
                self.sums[name] = self.sums.get(name, 0) + value / len(batches)
            course.batch += 1
            pause()
        losses = self._end()
        done = sum(len(batch.rows) for batch in own) * num_processes()
        speed = round(done / (time.perf_counter() - limits.started_s), 1)
        return {"lr": rates[-1], "loss": losses, "windows_per_s": speed, **limits.figures()}

    def _end(self) -> dict[str, float]:
        """Ends an epoch; returns the mean of each term of its loss, the only wait for the device."""
        values = torch.stack(list(self.sums.values())).cpu().tolist()
        losses = dict(zip(self.sums, values, strict=True))
        if not math.isfinite(losses["loss"]):
            todo = "Lower train.learning_rate."
            raise InputError("training", expected="a finite loss", got=str(losses["loss"]), todo=todo)
        self.plan, self.sums, self.course.batch = None, {}, 0
        return losses

    def _begin(self) -> NDArray[np.int64]:
        """Draws the windows of an epoch and their order."""
        plan = plan_windows(self.corpus, self.training, self.window_steps, self.hop_steps, self.rng)
        self.rng.shuffle(plan)
        batches = in_batches(plan, self.window_steps, self.config.train.batch_size)
        if min(len(batch.rows) for batch in batches) < num_processes():
            todo = "Raise train.batch_size, or start fewer processes."
            got = f"{len(plan)} windows in batches of {self.config.train.batch_size}"
            raise InputError("training", expected=f"windows for {num_processes()} processes", got=got, todo=todo)
        self.plan = plan
        return plan

    def _share(self, rows: Any) -> Any:
        """Returns the share of this process in a batch or in clips."""
        return rows[process_index() :: num_processes()]

    def step(self, windows: Windows, rate: float) -> Tensors:
        """Updates the weights once; returns the terms of the loss. Windows are clean, and on the device."""
        windows = corrupt(windows, self.config, self.generator, self.model.feature_scales)
        half = self.config.train.precision == "bfloat16"
        with torch.autocast(self.corpus.device.type, torch.bfloat16, enabled=half):
            output = self.forward(windows)
        terms = total_loss(output, windows, self.errors[windows.steps], self.sigma, self.config.loss)
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        if self.average is not None:
            self.average.update(self.model)
        return {name: value.detach() for name, value in terms.items()}

    def validate(self, clips: Sequence[int]) -> dict[str, float]:
        """Returns the score of clips, each predicted by one of the processes."""
        share = self._share(clips)
        sums = va_moments(predict_va(self.judged, self.corpus, share, self.config.data), self.corpus, share)
        return pooled_ccc([clip for part in gathered(sums) for clip in part])

    def keep(self) -> None:
        """Keeps a copy of the current weights as the best."""
        self.best = copy.deepcopy(self.judged.state_dict())

    def finish(self) -> None:
        """Gives the model its best weights, or leaves those of the last step if none were kept."""
        self.model.load_state_dict(self.best or self.judged.state_dict())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Returns everything that determines the next steps, as tensors by name and plain values; see `restore`."""
        parts = {"model": self.model.state_dict(), "best": self.best, "sums": self.sums}
        if self.average is not None:
            parts["average"] = self.average.state_dict()
        tensors = {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}
        for number, held in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{number}.{name}": value for name, value in held.items()}
        if self.plan is not None:
            tensors["plan"] = torch.from_numpy(self.plan)
        for number, states in enumerate(gathered(self._random_states())):
            tensors |= {f"random.{number}.{name}": value for name, value in states.items()}
        plain = {"course": asdict(self.course), "rng": self.rng.bit_generator.state, "num_processes": num_processes()}
        return tensors, plain

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Continues from a `state`.

        Raises:
            InputError: if it was saved by another number of processes.
        """
        if plain["num_processes"] != num_processes():
            todo = "Start it with as many as before."
            got = str(num_processes())
            raise InputError("resume", expected=f"{plain['num_processes']} processes", got=got, todo=todo)
        self.model.load_state_dict(_part(tensors, "model"))
        self.best, self.sums = _part(tensors, "best"), _part(tensors, "sums")
        if self.average is not None:
            self.average.load_state_dict(_part(tensors, "average"))
        state: dict[int, Tensors] = {}
        for name, value in _part(tensors, "optimiser").items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.plan = tensors["plan"].numpy() if "plan" in tensors else None
        self.rng.bit_generator.state = plain["rng"]
        self.course = Course(**plain["course"])
        self._set_random_states(_part(tensors, f"random.{process_index()}"))

    def _random_states(self) -> Tensors:
        """Returns the states of the generators that augmentation and dropout draw from."""
        device = self.corpus.device
        states = {"own": self.generator.get_state(), "cpu": torch.get_rng_state()}
        return {**states, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states

    def _set_random_states(self, states: Tensors) -> None:
        self.generator.set_state(states["own"])
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.corpus.device)


def _part(tensors: Mapping[str, Tensor], name: str) -> Tensors:
    return {key[len(name) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{name}.")}


def settled(config: Config, device: torch.device) -> Config:
    """Returns the configuration with precision "auto" replaced: bfloat16 where the device is fast at it, else float32.

    Raises:
        InputError: if bfloat16 is wanted of a GPU that has none.
    """
    wanted = config.train.precision
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16"))
    if wanted == "bfloat16" and not fast and device.type == "cuda":
        place, todo = "train.precision", "Use float32."
        raise InputError(place, expected="float32 on this GPU", got="bfloat16", todo=todo)
    chosen = "bfloat16" if wanted == "bfloat16" or (wanted == "auto" and fast) else "float32"
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": chosen})})
