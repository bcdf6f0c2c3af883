"""Where a corpus lies while models read it: on their device if it fits, else in main memory, read one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from .corpus import Corpus, Windows, cut

SHARE = 0.6  # of the free memory of a device that a corpus may take; models and their gradients need the rest


def num_bytes(corpus: Corpus) -> int:
    """What the tensors of a corpus take."""
    tensors = [*corpus.values, *corpus.quality, corpus.mask, corpus.va, corpus.va_mask]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def free_bytes(device: torch.device) -> int | None:
    """Memory of a device that nobody uses; None where it is the machine's own, which the system shares out."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def place(corpus: Corpus, device: torch.device) -> tuple[Corpus, str]:
    """A corpus for models on a device, and where it lies, in words.

    On a CPU it stays as it is: features are mapped from their training form, and the system keeps in memory what fits.
    """
    device = torch.empty(0, device=device).device  # with its index, as tensors have it
    size, free = num_bytes(corpus), free_bytes(device)
    if device.type == "cpu":
        return corpus, f"{size / 1e9:.2f} GB mapped into memory"
    if free is None or size <= SHARE * free:
        return corpus.to(device), f"{size / 1e9:.2f} GB on {device}"
    why = f"{free / 1e9:.2f} GB free on {device}"
    return replace(corpus, device=device), f"{size / 1e9:.2f} GB in main memory ({why}), copied a batch ahead"


def each_cut(corpus: Corpus, plans: Sequence[NDArray[np.int64]], window_steps: int) -> Iterator[Windows]:
    """The windows of one plan after the other, on the corpus's device.

    Where the corpus lies elsewhere, those of the next plan are cut and sent while these are in use.
    """
    if corpus.mask.device == corpus.device:
        yield from (cut(corpus, plan, window_steps) for plan in plans)
        return
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(cut, corpus, plan, window_steps) for plan in plans[:1]]
        for plan in plans[1:]:
            coming.append(thread.submit(cut, corpus, plan, window_steps))
            yield coming.pop(0).result()
        yield from (last.result() for last in coming)
