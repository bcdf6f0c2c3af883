"""`sage-va doctor`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, show, show_json
from .options import json_option
from .verb import verb

if TYPE_CHECKING:  # it imports torch
    from .checkup import Checkup


@verb("sage-va doctor runs/first")
@click.argument("target", metavar="[CACHE|RUN]", required=False)
@click.option("--offline", is_flag=True, help="Do not ask whether the model hub answers.")
@json_option
def doctor(target: str | None, offline: bool, as_json: bool) -> None:
    """Examines installation and machine, and gives advice.

    Looks at versions, extras, memory, disk, model hub, decoders and devices; goes once from drawn recordings to
    estimates; and compares features of items alone and in a batch, for the encoders of CACHE or RUN, or for an
    untrained one. The exit code is 1 if something does not work.

    --json is for reports of faults: names of files, clips, users and machines are taken out.
    """
    from .checkup import examine

    with Bar("checks") as bar:
        checkup = examine(target, offline=offline, tick=bar.tick)
    if as_json:
        show_json(_report(checkup, target))
    else:
        show(checkup, False, describe_checkup)
    sys.exit(1 if checkup.broken else 0)


def _report(checkup: Checkup, target: str | None) -> dict[str, Any]:
    """Returns the examination without private names; those of the target are looked for where it was looked at."""
    from .anonymous import anonymous, private_names

    report, num = checkup.to_json(), checkup.num_of_machine
    findings = anonymous(report["findings"][num:], private_names(target))
    report = anonymous({**report, "findings": report["findings"][:num]}, private_names(None))
    return {**report, "findings": report["findings"] + findings}


def describe_checkup(checkup: Checkup) -> str:
    """Returns the examination as text."""
    width = max(len(finding.name) for finding in checkup.findings)
    lines = []
    for finding in checkup.findings:
        lines.append(f"{finding.state:<8} {finding.name:<{width}}  {finding.text}")
        if finding.advice:
            lines.append(f"{'':<{width + 9}}  {finding.advice}")
    num_broken = sum(finding.state == "broken" for finding in checkup.findings)
    return "\n".join([*lines, f"{num_broken} broken" if num_broken else "nothing is broken"])
