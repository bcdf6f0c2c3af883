"""`sage-va view`."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Bar, chosen_device, echo
from .options import clips_option, device_option, moved_cache_option, moved_labels_option, split_option
from .verb import verb

if TYPE_CHECKING:  # it needs PyAV
    from ..extract.shown_recordings import ShownRecordings
    from ..fusion.view.server import ViewServer


@verb("sage-va view runs/first --media videos/")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--media",
    required=True,
    type=click.Path(exists=True, path_type=Path),
    help="Folder or manifest of the recordings; files outside of it are never shown.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1. Default: a free one.")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@clips_option
@moved_cache_option
@moved_labels_option
@split_option
@device_option
def view(
    run: Path,
    media: Path,
    port: int,
    no_browser: bool,
    clips: tuple[str, ...],
    cache: str | None,
    labels: Path | None,
    split: str | None,
    device: str,
) -> None:
    """Shows recordings beside the traces of a run.

    The page opens in the browser: video, face crop and traces run together, and labels can be corrected. Corrected
    labels are written to a folder beside the labels, never over them.

    Only this machine can open the page, and only by the address that is printed. Ctrl-C ends it.
    """
    place = {"cache": cache, "labels": labels, "split": split, "device": chosen_device(device)}
    with Bar("runs") as bar:
        server, recordings = open_view(run, media, port=port, clips=clips, tick=bar.tick, **place)
    echo(f"{server.url}\nThe address is only for you: who has it sees the recordings. Ctrl-C ends.")
    if not no_browser and _has_screen():
        webbrowser.open(server.url)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        echo("")
    finally:
        server.server_close()
        recordings.close()


def open_view(
    run: Path,
    media: Path,
    *,
    port: int = 0,
    clips: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
    **places: Any,
) -> tuple[ViewServer, ShownRecordings]:
    """Predicts the clips of a run and opens a server for its page, which does not run yet.

    Args:
        run: a run, the folds of one, or a comparison.
        media: folder or manifest of the recordings.
        port: on 127.0.0.1; 0 = a free one.
        clips: ids or patterns; none = all that the run is scored on.
        tick: called when a run has been scored.
        places: cache, labels, split and device, as for `report`.

    Raises:
        InputError: if the run is unfinished, no clip has a recording, or the port is taken.
    """
    from ..data.clip import choose_clips
    from ..extract.shown_recordings import show_recordings
    from ..fusion.report.members import expand, group, read_member
    from ..fusion.view.server import ViewServer
    from ..fusion.view.viewing import Viewing

    server = ViewServer(port)
    try:
        models = group([read_member(place, tick, **places) for place in expand([run])])
        model = models[0]
        chosen = choose_clips(model.clip_ids, clips, "Look at the clips of the run with `sage-va report`.")
        clip_ids = [clip_id for clip_id in model.clip_ids if clip_id in chosen]
        recorded = {clip_id: (model.of_clip(clip_id)[0].clip.media or {}).get("path") for clip_id in clip_ids}
        recordings = show_recordings(media, recorded, [stream.fingerprint for stream in model.streams])
        labels = places.get("labels") or Path(model.members[0].first.labels)
        server.route = Viewing(models, recordings, labels, clip_ids).route
    except BaseException:
        server.server_close()
        raise
    return server, recordings


def _has_screen() -> bool:
    """True where a browser can open a window: not over a plain SSH connection."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
