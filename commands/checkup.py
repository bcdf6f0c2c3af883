"""The examination of `sage-va doctor`: what works here, what does not, and what to do, as findings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data import InputError, open_store
from ..data.environment import Environment
from ..data.errors import first_line
from ..data.machine import find_device
from ..data.store.base import is_cache

if TYPE_CHECKING:  # it needs the packages of extraction
    from ..extract.checkup import BatchCheck

SMALL_MEMORY_BYTES, SMALL_DISK_BYTES = 4e9, 5e9
EXAMPLE = "resnet18.a1_in1k"  # of an encoder of usual size; its speed is measured untrained
FILM_FPS = 25


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Args:
        name: of what was examined.
        state: "good"; "note", works with a limit; "skipped"; "broken", does not work.
        text: what was found.
        advice: what to do, if anything.
    """

    name: str
    state: Literal["good", "note", "skipped", "broken"]
    text: str
    advice: str = ""


@dataclass
class Checkup:
    """The result of the examination: facts about the machine, and findings.

    Args:
        environment: the facts.
        findings: in order; the first `num_of_machine` look at nothing of the target.
        tick: called after each finding.
        num_of_machine: see above.
    """

    environment: Environment
    findings: list[Finding] = field(default_factory=list[Finding])
    tick: Callable[[], None] = lambda: None
    num_of_machine: int = 0

    @property
    def broken(self) -> bool:
        """True where something does not work."""
        return any(finding.state == "broken" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values, with names and paths in them: see `anonymous`."""
        return {
            "broken": self.broken,
            "findings": [asdict(finding) for finding in self.findings],
            "environment": self.environment.to_json(),
        }

    def examine(self, name: str, look: Callable[[], Finding | None]) -> None:
        """Adds what `look` returns; an exception means that it is broken."""
        try:
            finding = look()
        except InputError as error:
            finding = Finding(name, "broken", f"{error.place}: {error.problem}", error.todo)
        except Exception as error:  # whatever it is, the rest is examined too
            finding = Finding(name, "broken", first_line(error), "Report it with the output of --json.")
        if finding:
            self.findings.append(finding)
        self.tick()


def examine(target: str | None, *, offline: bool = False, tick: Callable[[], None] = lambda: None) -> Checkup:
    """Examines this machine and installation, and a cache or run.

    Args:
        target: a cache, a run or a saved model; None = the installation alone.
        offline: do not ask for the model hub.
        tick: called after each examination.
    """
    environment = Environment.of_this_machine(offline=offline)
    checkup = Checkup(environment, tick=tick)
    can_extract = not environment.missing.get("extract", ["PyAV"])
    for name, look in (
        ("versions", lambda: _versions(environment)),
        ("extras", lambda: _extras(environment)),
        ("memory", lambda: _memory(environment)),
        ("disk", lambda: _disk(environment)),
        ("hub", lambda: _hub(environment)),
        ("decoders", lambda: _decoders(can_extract)),
        ("devices", lambda: _devices(environment)),
    ):
        checkup.examine(name, look)
    checkup.examine("self-test", lambda: _self_test(can_extract))
    checkup.num_of_machine = len(checkup.findings)
    fingerprints: dict[str, Mapping[str, Any]] = {}
    if target:
        checkup.examine("cache" if is_cache(target) else "run", lambda: _target(target, fingerprints))
    _examine_encoders(checkup, fingerprints, can_extract)
    return checkup


def _versions(environment: Environment) -> Finding:
    versions = {name: version for name, version in environment.versions.items() if version}
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("sage-va", "python", "torch", "numpy", "zarr") if name in versions
    )
    if "sage-va" not in versions:
        return Finding("versions", "note", f"{shown}; sage-va is not installed", "Run `pip install .` in its folder.")
    return Finding("versions", "good", f"{shown}, {environment.system}")


def _extras(environment: Environment) -> Finding:
    whole = [extra for extra, missing in environment.missing.items() if not missing]
    lacking = {extra: missing for extra, missing in environment.missing.items() if missing}
    text = f"installed: {', '.join(whole) or 'none'}"
    if lacking:
        text += f"; not installed: {', '.join(f'{extra} ({len(each)} packages)' for extra, each in lacking.items())}"
    if "extract" in lacking:
        return Finding("extras", "note", text, 'To extract recordings: pip install "sage-va[extract]".')
    return Finding("extras", "good", text)


def _memory(environment: Environment) -> Finding:
    if environment.memory_bytes is None:
        return Finding("memory", "skipped", "this system does not say how much is free")
    text = f"{environment.memory_bytes / 1e9:.1f} GB free"
    if environment.memory_bytes < SMALL_MEMORY_BYTES:
        return Finding("memory", "note", text, "Close other programs, or lower --batch-size and --workers.")
    return Finding("memory", "good", text)


def _disk(environment: Environment) -> Finding:
    text = ", ".join(f"{size / 1e9:.1f} GB free for {purpose}" for purpose, size in environment.disk_bytes.items())
    if min(environment.disk_bytes.values()) < SMALL_DISK_BYTES:
        return Finding("disk", "note", text, "Make room, or set SAGE_VA_CACHE and TMPDIR to a larger disk.")
    return Finding("disk", "good", text)


def _hub(environment: Environment) -> Finding:
    if environment.hub is None:
        return Finding("hub", "skipped", "not asked (--offline, or HF_HUB_OFFLINE is set)")
    if environment.hub:
        return Finding("hub", "good", "the model hub answers")
    advice = "Name local weights with --visual-weights and --audio, or models that were downloaded before."
    return Finding("hub", "note", "the model hub does not answer", advice)


def _decoders(can_extract: bool) -> Finding:
    if not can_extract:
        return Finding("decoders", "skipped", "the packages of extraction are not installed")
    from ..extract.checkup import decoders

    of_pyav = decoders()
    missing = [name for names in of_pyav.missing.values() for name in names]
    text = f"FFmpeg (libavcodec {of_pyav.libraries.get('libavcodec', '?')}) reads "
    text += ", ".join(name for names in of_pyav.present.values() for name in names)
    if missing:
        advice = "Install PyAV from its wheels, which have them: pip install --force-reinstall av."
        return Finding("decoders", "note", f"{text}; not {', '.join(missing)}", advice)
    return Finding("decoders", "good", text)


def _devices(environment: Environment) -> Finding:
    import torch

    broken = [device for device in environment.devices if device.problem]
    if broken:
        text = "; ".join(f"{device.name} ({device.model}): {device.problem}" for device in broken)
        return Finding("devices", "broken", text, "Check driver and torch, or use --device cpu.")
    if environment.devices:
        return Finding("devices", "good", ", ".join(f"{each.name} ({each.model})" for each in environment.devices))
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    cores = f"{environment.num_cores} {'core' if environment.num_cores == 1 else 'cores'}"
    return Finding("devices", "note", f"no GPU; {cores}; torch is {built}", "Training is fine on a CPU.")


def _self_test(can_extract: bool) -> Finding:
    from .self_test import self_test

    result = self_test(extraction=can_extract)
    steps = ", ".join(f"{step} {seconds:.1f} s" for step, seconds in result.seconds.items())
    if can_extract:
        return Finding("self-test", "good", f"from drawn recordings to estimates: {steps}")
    text = f"from drawn features to estimates: {steps}; extraction is skipped, its packages are not installed"
    return Finding("self-test", "skipped", text, 'To extract recordings: pip install "sage-va[extract]".')


def _target(target: str, fingerprints: dict[str, Mapping[str, Any]]) -> Finding:
    """Looks at a cache or run; notes the fingerprints of its streams."""
    if is_cache(target):
        store = open_store(target)
        for stream in store.streams():
            clip_ids = store.clip_ids(stream)
            store.read(clip_ids[0], stream)
            fingerprints[stream] = store.record(clip_ids[0], stream)["fingerprint"]
        text = f"{len(store.clip_ids())} clips, {len(store.streams())} streams; an entry of each is whole"
        return Finding("cache", "good", text, "`sage-va cache verify` compares every byte.")
    is_absent = not Path(target).exists() and target.count("/") != 1  # else it may be a name on the hub
    if is_absent or Path(target).is_file():
        got = "nothing of that name" if is_absent else "another file"
        raise InputError(target, expected="a cache, a run or a saved model", got=got, todo="Check the path.")
    from ..fusion.export.ensemble import cache_of, load_models
    from ..fusion.run_folder import SPLIT, fold_runs

    models = load_models(target)
    fingerprints |= {stream.name: stream.fingerprint for stream in models[0].streams}
    text = f"{len(models)} models" if len(models) > 1 else "a model"
    text += f" of {len(fingerprints)} streams, weights are whole"
    if (Path(target) / SPLIT).exists() or fold_runs(Path(target)):
        try:
            open_store(cache_of(target))
        except InputError:
            return Finding("run", "note", f"{text}; its cache is not where it was", "Name it with --cache.")
    return Finding("run", "good", text)


def _examine_encoders(checkup: Checkup, fingerprints: Mapping[str, Mapping[str, Any]], can_extract: bool) -> None:
    """Compares features alone and in a batch, for the encoders of the target, or for untrained ones."""
    if not can_extract:
        checkup.findings.append(Finding("batches", "skipped", "the packages of extraction are not installed"))
        return
    device = str(find_device("auto"))
    if not fingerprints:
        checkup.examine(f"visual/{EXAMPLE}", lambda: _default_encoder(device))
    for stream, fingerprint in fingerprints.items():
        checkup.examine(stream, lambda stream=stream, fingerprint=fingerprint: _encoder(stream, fingerprint, device))


def _default_encoder(device: str) -> Finding:
    from ..extract import encoders_from
    from ..extract.checkup import check_batch

    encoder, _ = encoders_from(visual=EXAMPLE, visual_weights="random", device=device)
    assert encoder is not None, "it was named"
    return _of_batch(f"visual/{EXAMPLE} (untrained)", check_batch(encoder), "visual", device)


def _encoder(stream: str, fingerprint: Mapping[str, Any], device: str) -> Finding:
    if fingerprint.get("encoder", {}).get("kind") not in ("timm", "transformers", "librosa", "plug-in"):
        return Finding(stream, "skipped", "imported features: there is no encoder to examine")
    from ..extract import encoder_from_fingerprint
    from ..extract.checkup import check_batch

    try:
        encoder = encoder_from_fingerprint(fingerprint, device=device)
    except InputError as error:  # such as weights on another machine: the cache can be used all the same
        text = f"its encoder cannot be loaded here: {error.problem}"
        return Finding(stream, "note", text, f"{error.todo} Features in the cache stay usable.")
    return _of_batch(stream, check_batch(encoder), encoder.modality, device)


def _of_batch(name: str, batch: BatchCheck, modality: str, device: str) -> Finding:
    """Returns the finding about an encoder: whether batches matter, and its speed."""
    differ = f"differ by {batch.deviation:.1g} of the largest value" if batch.deviation else "are equal"
    text = (
        f"features alone and in a batch of {batch.num_items} {differ} (allowed in {batch.dtype}: {batch.tolerance:g})"
    )
    if not batch.within:
        advice = "Features would depend on the batch size. Use --precision float32, or report it with --json."
        return Finding(name, "broken", text, advice)
    unit = "images" if modality == "visual" else "s of audio"
    text += f"; about {batch.items_per_s:.0f} {unit} per second on {device.split(':')[0]}"
    slow = modality == "visual" and device == "cpu"
    return Finding(name, "good", text, _advice(batch.items_per_s) if slow else "")


def _advice(images_per_s: float) -> str:
    hours = FILM_FPS / images_per_s
    lasts = f"{hours:.1f} h" if hours > 1 else f"{60 * hours:.0f} min"
    return (
        f"No GPU is used: an hour of video at {FILM_FPS} frames per second takes about {lasts}. "
        "A GPU, --runtime openvino, a lower --fps or a smaller encoder is faster."
    )
