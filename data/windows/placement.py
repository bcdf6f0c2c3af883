"""Placement of a corpus while models read it: on their device if it fits, else in main memory, read one batch ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch

from .batches import Batch
from .corpus import Corpus, Windows, cut

SHARE = 0.6  # of the free memory of a device that a corpus may take; models and their gradients need the rest


def num_bytes(corpus: Corpus) -> int:
    """Returns the bytes of a corpus's tensors."""
    tensors = [*corpus.values, *corpus.quality, corpus.mask, corpus.va, corpus.va_mask]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def free_bytes(device: torch.device) -> int | None:
    """Returns the free memory of a device; None where it is the machine's own, which the system shares out."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def place(corpus: Corpus, device: torch.device) -> tuple[Corpus, str]:
    """Returns a corpus for models on a device, and its place as text.

    On a CPU it stays as it is: features are mapped from the memory-mapped cache, and the system keeps in memory what
    fits.
    """
    device = torch.empty(0, device=device).device  # with its index, as tensors have it
    size, free = num_bytes(corpus), free_bytes(device)
    if device.type == "cpu":
        return corpus, f"{size / 1e9:.2f} GB mapped into memory"
    if free is None or size <= SHARE * free:
        return corpus.to(device), f"{size / 1e9:.2f} GB on {device}"
    why = f"{free / 1e9:.2f} GB free on {device}"
    return replace(corpus, device=device), f"{size / 1e9:.2f} GB in main memory ({why}), copied a batch ahead"


def each_cut(corpus: Corpus, batches: Sequence[Batch]) -> Iterator[Windows]:
    """Yields the windows of one batch after the other, on the corpus's device.

    Where the corpus lies there, the rows of all batches are sent once, and no batch waits for a copy. Where it lies
    elsewhere, the windows of the next batch are cut and sent while these are in use.
    """
    if corpus.mask.device == corpus.device:
        rows = torch.from_numpy(np.concatenate([np.zeros((0, 2), np.int64), *(batch.rows for batch in batches)]))
        parts = rows.to(corpus.device).split([len(batch.rows) for batch in batches])
        yield from (cut(corpus, part, batch.length) for part, batch in zip(parts, batches, strict=True))
        return
    with ThreadPoolExecutor(1) as thread:
        ahead = [thread.submit(cut, corpus, batch.rows, batch.length) for batch in batches[:1]]
        for batch in batches[1:]:
            ahead.append(thread.submit(cut, corpus, batch.rows, batch.length))
            yield ahead.pop(0).result()
        yield from (last.result() for last in ahead)
