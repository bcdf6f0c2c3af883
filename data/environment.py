"""The environment of the software: versions, extras, devices, memory, disk and hub, without names or paths."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .hub import answers
from .machine import num_cores
from .user_cache import user_cache

_PACKAGE = "sage-va"
_TOOLS = {"dev", "docs"}  # extras of those who change the software
_REQUIREMENT = re.compile(r"^([\w.-]+)(?:\[[^]]*\])?[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?")


@dataclass(frozen=True)
class Device:
    """A device that encoders and models can run on: its memory in bytes, and why it cannot be used, if so."""

    name: str
    model: str
    memory_bytes: int | None
    free_bytes: int | None
    problem: str | None = None


@dataclass(frozen=True)
class Environment:
    """Facts about this machine and installation.

    Args:
        versions: name -> version, of this package, Python and the packages that it uses; None = not installed.
        missing: extra -> its packages that are not installed; an extra that is whole has none.
        system: operating system and processor architecture.
        num_cores: that this process may use.
        devices: besides the CPU.
        memory_bytes: of main memory, that programs may still take; None = unknown.
        disk_bytes: free, by purpose: "derived files", "temporary files".
        hub: the model hub accepts a connection; None = not asked.
    """

    versions: dict[str, str | None]
    missing: dict[str, list[str]]
    system: str
    num_cores: int
    devices: list[Device]
    memory_bytes: int | None
    disk_bytes: dict[str, int]
    hub: bool | None

    @classmethod
    def of_this_machine(cls, *, offline: bool = False) -> Environment:
        """Looks at this machine.

        Args:
            offline: do not ask whether the model hub answers, which takes up to a second and a half. The same holds
                where HF_HUB_OFFLINE is set.
        """
        packages = required_packages()
        names = sorted({name for extra, listed in packages.items() if extra not in _TOOLS for name in listed})
        return cls(
            versions={_PACKAGE: version_of(_PACKAGE), "python": platform.python_version()}
            | {name: version_of(name) for name in names},
            missing={
                extra: [name for name in listed if version_of(name) is None]
                for extra, listed in packages.items()
                if extra and extra not in _TOOLS
            },
            system=f"{platform.system()} {platform.machine()}",
            num_cores=num_cores(),
            devices=devices(),
            memory_bytes=free_memory_bytes(),
            disk_bytes={
                "derived files": free_disk_bytes(user_cache()),
                "temporary files": free_disk_bytes(Path(tempfile.gettempdir())),
            },
            hub=None if offline or hub_is_off() else hub_answers(),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


def required_packages() -> dict[str, list[str]]:
    """Returns the packages that an installation requires, by extra; "" stands for those that are always needed."""
    packages: dict[str, list[str]] = {}
    for line in metadata.requires(_PACKAGE) or ():
        match = _REQUIREMENT.match(line)
        assert match, line
        packages.setdefault(match[2] or "", []).append(match[1])
    return packages


def version_of(package: str) -> str | None:
    """Returns the installed version of a package; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> list[Device]:
    """Returns the CUDA devices, each tried with a small product, and Apple's."""
    import torch

    cuda = [_cuda(number) for number in range(torch.cuda.device_count())]
    return [*cuda, *[Device("mps", "Apple GPU", None, None)] * torch.backends.mps.is_available()]


def _cuda(number: int) -> Device:
    import torch

    name, properties = f"cuda:{number}", torch.cuda.get_device_properties(number)
    try:
        free, _ = torch.cuda.mem_get_info(number)
        ones = torch.ones(64, 64, device=name)
        right = float((ones @ ones).sum()) == 64.0**3
        problem = None if right else "it computes a wrong product"
    except RuntimeError as error:
        free, problem = None, str(error).splitlines()[0][:200]
    return Device(name, properties.name, properties.total_memory, free, problem)


def free_memory_bytes() -> int | None:
    """Returns the main memory that programs may still take, as Linux estimates it; None where that is unknown."""
    try:
        match = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def free_disk_bytes(place: Path) -> int:
    """Returns the free bytes of the disk that holds a place, which need not exist."""
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def hub_is_off() -> bool:
    """Returns True if the environment forbids asking the model hub."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def hub_answers() -> bool:
    """Returns True if the model hub accepts a connection in a second and a half."""
    from huggingface_hub import constants

    return answers(constants.ENDPOINT)
