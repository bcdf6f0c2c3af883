"""A trained model as a self-contained folder of weights, configuration and model card, here or on the hub."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, ModelCard, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from torch import nn

from ...data.atomic import write_text
from ...data.crops import AFFWILD2, CropTemplate
from ...data.errors import InputError, first_line
from ...data.hub import offline_if_unreachable
from ...data.labels import LabelFolder
from ...data.store.base import Store, open_store
from ...data.tensor_file import load_tensors, save_tensors
from ...data.windows.corpus import Corpus, Stream, Windows
from ...data.windows.load import load_corpus, normaliser_of, read_clips
from ...data.windows.normalise import Normaliser
from ..config import Config, check_config
from ..evaluation.groups import Grouping
from ..evaluation.metrics import corpus_moments, summarise
from ..evaluation.predict import Prediction, predict
from ..evaluation.score import Score, ScoredModel, score_run
from ..models.base import Output, VAModel
from ..models.size import check_size
from ..models.variants import build_model
from ..run_folder import CONFIG, MODEL, SPLIT, Run, load_run, write_json
from .metadata import ClipCounts, ModelMetadata, PublishedScore
from .model_card import MARK, card_of

CARD = "README.md"


class SAGE(nn.Module, ModelHubMixin):
    """A trained model of any variant, with everything needed to use and to judge it.

    Args:
        model: trained; `model.streams` are its inputs, with their fingerprints.
        config: that it was trained with.
        smoothing_s, sigma, licence, restricted, data, scores, crop_template: see `ModelMetadata`.

    Raises:
        InputError: if the configuration has no rate of the grid.
    """

    def __init__(
        self,
        model: VAModel,
        config: Config,
        *,
        smoothing_s: float = 0.0,
        sigma: float | None = None,
        licence: str | None = None,
        restricted: bool = False,
        data: ClipCounts | None = None,
        scores: PublishedScore | None = None,
        crop_template: CropTemplate | None = None,
    ) -> None:
        super().__init__()
        if config.data.grid_hz is None:
            todo = "Set it, as training does."
            raise InputError("data.grid_hz", expected="the rate that the model was trained at", got="none", todo=todo)
        self.model, self.config = model.eval(), config
        self.smoothing_s, self.sigma = smoothing_s, sigma
        self.licence, self.restricted = licence, restricted
        self.data, self.scores, self._crop_template = data, scores, crop_template

    @property
    def metadata(self) -> ModelMetadata:
        """The metadata, saved beside weights, configuration and streams."""
        terms, template = (self.licence, self.restricted), self._crop_template
        return ModelMetadata(self.smoothing_s, self.sigma, *terms, self.data, self.scores, template)

    @property
    def crop_template(self) -> CropTemplate:
        """The template of the face crops that the model takes, where it takes any."""
        return self._crop_template or AFFWILD2

    @property
    def streams(self) -> list[Stream]:
        """The inputs of the model."""
        return self.model.streams

    @property
    def random_weights(self) -> list[str]:
        """Names of the streams whose encoder was never trained."""
        return [stream.name for stream in self.streams if stream.random_weights]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.model.parameters()).device

    def forward(self, windows: Windows) -> Output:
        """Windows -> Output, with gradients; see `predict` for estimates of clips."""
        return self.model(windows)

    def predict(self, data: Store | Corpus | str | Path, clip_ids: Sequence[str] | None = None) -> list[Prediction]:
        """Predicts clips, one after the other; default: all.

        Args:
            data: a cache, its address, or clips that `load_corpus` has loaded with `streams` of this model.
            clip_ids: which clips, in this order.

        Raises:
            InputError: if a clip lacks a stream, or its features are not those that the model was trained on.
        """
        if isinstance(data, Corpus):
            chosen = range(len(data.clips)) if clip_ids is None else data.find(clip_ids)
            return predict(self.model, self._fitting(data).to(self.device), chosen, self.config.data)
        store = data if isinstance(data, Store) else open_store(data)
        predictions, shared = [], {"keep": False, "normaliser": self.normaliser(store)}
        for clip_id in store.clip_ids() if clip_ids is None else clip_ids:
            corpus = load_corpus(store, self.streams, [clip_id], grid_hz=self.config.data.hz, **shared)
            predictions += predict(self.model, corpus.to(self.device), [0], self.config.data)
        return predictions

    def normaliser(self, store: Store) -> Normaliser:
        """Returns the normalisation of this model's streams in a cache, to be shared by the clips that are read."""
        return normaliser_of(store, self.streams, self.config.data.hz)

    def _fitting(self, corpus: Corpus) -> Corpus:
        """The corpus with the model's own streams, in its order."""
        names = [stream.name for stream in corpus.streams]
        lacking = [stream.name for stream in self.streams if stream.name not in names]
        if lacking:
            todo = "Load it with the `streams` of the model."
            raise InputError("corpus", expected=f"the stream {lacking[0]}", got=", ".join(names), todo=todo)
        rates, wanted = {grid.hz for grid in corpus.grids}, self.config.data.hz
        if rates != {wanted}:
            got = ", ".join(f"{hz:g} Hz" for hz in rates)
            raise InputError("corpus", expected=f"a grid of {wanted:g} Hz", got=got, todo="Load it at that rate.")
        chosen = corpus.only([names.index(stream.name) for stream in self.streams])
        for stream, own in zip(chosen.streams, self.streams, strict=True):
            if stream.normalise != own.normalise:
                expected, got = (f"{one.name} normalised by {one.normalise}" for one in (own, stream))
                todo = "Load it with the `streams` of the model."
                raise InputError("corpus", expected=expected, got=got, todo=todo)
        return chosen

    def score(self, data: Store | str | Path, labels: str | Path, grouping: Grouping | None = None) -> Score:
        """Returns the score on every labelled clip of a cache; it means something if none was trained on.

        Raises:
            InputError: if there is no such clip, or its features are not those that the model was trained on.
        """
        store = data if isinstance(data, Store) else open_store(data)
        joined = LabelFolder(Path(labels)).join(store.clip_ids())
        clips = read_clips(store, sorted(joined.files))
        truths = joined.truths(clip.clip for clip in clips)
        if not any(truth.mask.any() for truth in truths.values()):
            todo = "Label files are matched by name."
            raise InputError(labels, expected=f"labels for clips of {store.url}", got="none", todo=todo)
        corpus = load_corpus(store, self.streams, clips, grid_hz=self.config.data.hz, truths=truths)
        predictions = self.predict(corpus)
        raw, smoothed = (corpus_moments(predictions, corpus, width_s) for width_s in (0.0, self.smoothing_s))
        facts = ScoredModel(None, self.config.model.variant, "all", None, self.random_weights)
        groups = grouping.score(corpus.clips, raw) if grouping else None
        return Score.of(facts, summarise(raw, smoothed), [self.smoothing_s], [], groups)

    @classmethod
    def load(cls, place: str | Path, device: torch.device | str = "cpu", **scoring: Any) -> SAGE:
        """Loads a run, a saved folder, or a repository of the hub, whichever `place` is.

        Args:
            place: a folder or a name on the hub.
            device: where to compute.
            scoring: `scored`, `cache` and `labels` as for `from_run`; default: a run is not scored.

        Raises:
            InputError: if it is none of them.
        """
        folder = Path(place)
        if folder.is_dir() and ((folder / SPLIT).exists() or not (folder / CONFIG).exists()):
            return cls.from_run(folder, device=device, **{"scored": False, **scoring})
        if scoring.get("cache") or scoring.get("labels"):
            todo = "Leave cache and labels out: its scores were written when it was saved."
            raise InputError(place, expected="a run, to be scored", got="a saved model", todo=todo)
        return cls.from_pretrained(place).to(device)

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        *,
        cache: str | None = None,
        labels: str | Path | None = None,
        scored: bool = True,
        device: torch.device | str = "cpu",
    ) -> SAGE:
        """Loads a finished run without its author's own: places on a disk, names of clips and persons.

        Args:
            path: folder of the run.
            cache, labels: where they are now; default: where they were.
            scored: whether to score it, if cache and labels are at hand.
            device: where to compute.

        Raises:
            InputError: if the run is unfinished, or cache or labels are not those of its clips.
        """
        run = load_run(Path(path), device)
        store = _store_at_hand(run, cache) if scored else None
        truths = Path(labels or run.labels)
        scores = None
        if store is not None and (labels or truths.is_dir()):
            scores = PublishedScore.of(score_run(Path(path), cache=store.url, labels=truths, device=str(device)))
        clips = [] if store is None else [store.clip(clip_id) for clip_id in run.roles]
        return cls(
            run.model,
            run.config.without_places(),
            smoothing_s=run.smoothing_s,
            sigma=run.sigma,
            licence=run.licence,
            restricted=run.restricted,
            data=ClipCounts.of(list(run.roles.values()), clips),
            scores=scores,
            crop_template=run.crop_template,
        )

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes `model.safetensors`, `config.json` and `README.md`; `options` as in huggingface_hub.

        A model card whose first line was taken out stays as it is.

        Raises:
            InputError: if the folder holds a run, which the files would spoil.
        """
        if (Path(save_directory) / SPLIT).exists():
            todo = "Choose another folder."
            raise InputError(save_directory, expected="a folder for the model alone", got="a run", todo=todo)
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        save_tensors(save_directory / MODEL, self.model.state_dict())
        write_json(save_directory / CONFIG, self.described())
        card = save_directory / CARD
        if not card.exists() or MARK in card.read_text(encoding="utf-8"):
            write_text(card, str(self.generate_model_card()))

    def described(self) -> dict[str, Any]:
        """Returns all but the weights, as plain JSON: `config`, `streams`, and the metadata."""
        return {
            "library_name": "sage-va",
            "config": self.config.model_dump(mode="json"),
            "streams": [asdict(stream) for stream in self.streams],
            **self.metadata.to_json(),
        }

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Returns the model card."""
        return ModelCard(card_of(self.config, self.streams, self.metadata))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> SAGE:
        """Loads a folder that `save_pretrained` wrote, or a repository of the hub; `options` as in huggingface_hub.

        Raises:
            InputError: if it cannot be fetched, or is not whole.
        """
        try:
            with contextlib.nullcontext() if Path(pretrained_model_name_or_path).is_dir() else offline_if_unreachable():
                return super().from_pretrained(pretrained_model_name_or_path, **options)
        except (HfHubHTTPError, EntryNotFoundError, HFValidationError) as error:
            place, todo = pretrained_model_name_or_path, "Check the name, and `hf auth login` if it is private."
            expected = "a saved model, here or on the hub"
            raise InputError(place, expected=expected, got=first_line(error), todo=todo) from None

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **_: Any,
    ) -> SAGE:
        if Path(model_id).is_dir():
            return _read(model_id, Path(model_id) / MODEL, Path(model_id) / CONFIG)
        options = {"revision": revision, "cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
        options["force_download"] = force_download
        # Users choose the model and, if they like, its revision; neither file holds code.
        weights, described = (hf_hub_download(model_id, name, **options) for name in (MODEL, CONFIG))  # nosec B615
        return _read(model_id, Path(weights), Path(described))

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, **options: Any
    ) -> str:
        """Uploads the model to the hub and returns the address of the commit; `options` as in huggingface_hub.

        Raises:
            InputError: if it was trained on restricted data, and the repository is not a private one.
        """
        if self.restricted:
            expected = f"a private repository, for restricted data (licence: {self.licence or 'not stated'})"
            if private is not True:
                todo = "If that licence allows it at all, say private=True."
                raise InputError(repo_id, expected=expected, got=f"private={private}", todo=todo)
            hub = HfApi(token=token)
            hub.create_repo(repo_id, private=True, exist_ok=True)
            if not hub.model_info(repo_id).private:  # one that existed stays as it was
                todo = "Make it private in its settings, or choose another."
                raise InputError(repo_id, expected=expected, got="a public one", todo=todo)
        return super().push_to_hub(repo_id, private=private, token=token, **options)


def _read(place: str, weights: Path, described: Path) -> SAGE:
    try:
        values = json.loads(described.read_text(encoding="utf-8"))
        config, metadata = check_config(values["config"], place), ModelMetadata.from_json(values)
        streams = [Stream(**{**each, "quality_names": tuple(each["quality_names"])}) for each in values["streams"]]
        check_size(weights, streams, config.model)
        model = build_model(streams, config.model)
        model.lag_s = config.labels.settled_s
        model.load_state_dict(load_tensors(weights)[0])
        return SAGE(model, config, **vars(metadata))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        got, todo = " ".join(first_line(error).split())[:200], "Fetch or export it again."
        raise InputError(place, expected="a whole saved model", got=got, todo=todo) from None


def _store_at_hand(run: Run, cache: str | None) -> Store | None:
    """The cache of a run; None where it is no longer at its place, and no other is named."""
    if cache is not None:
        return open_store(cache)
    try:
        return open_store(run.cache)
    except (InputError, OSError):
        return None
