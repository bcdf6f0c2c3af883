"""The difference between windowed audio and one forward pass over all of it.

    python benchmarks/sound.py MODEL RECORDING [--weights random] [--seconds 60]

MODEL is a hub id or directory of a wav2vec2, HuBERT or WavLM; Whisper hears 30 s at most and has no long pass. Cosine
of each step's features, from windows and from the long pass, after the mean over the long pass is taken off both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sage_va.data import InputError
from sage_va.data.manifest import Source
from sage_va.extract.decode.reader import decode
from sage_va.extract.decode.request import DecodeOptions
from sage_va.extract.encoders.audio_windows import Windower
from sage_va.extract.encoders.base import AudioEncoder
from sage_va.extract.encoders.transformers_encoder import TransformersEncoder


def samples_of(path: Path, encoder: AudioEncoder, seconds: float) -> np.ndarray:
    """(N,) samples: the recording, repeated to the wanted length."""
    parts = decode(Source(path.name, path=path), DecodeOptions(sampling_rate=encoder.sampling_rate))
    samples = np.concatenate([part for part in parts if isinstance(part, np.ndarray)])
    return np.resize(samples, round(seconds * encoder.sampling_rate))


def by_windows(samples: np.ndarray, encoder: AudioEncoder) -> np.ndarray:
    windower = Windower(encoder.plan)
    windows = [*windower.push(samples), *windower.finish()]
    return np.concatenate([encoder.encode(one.samples[None])[0][one.first : one.end] for one in windows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--weights", choices=["hub", "random"], default="hub")
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    encoder = TransformersEncoder(options.model, weights=options.weights, device="cpu", precision="float32")
    if encoder.plan.padded:
        raise InputError(
            options.model, expected="an encoder that takes sound of any length", got="Whisper", todo="Name another."
        )
    samples = samples_of(options.recording, encoder, options.seconds)
    cut, whole = by_windows(samples, encoder), encoder.encode(samples[None])[0]
    cut, whole = cut - whole.mean(0), whole - whole.mean(0)
    cosine = (cut * whole).sum(1) / np.linalg.norm(cut, axis=1) / np.linalg.norm(whole, axis=1)
    label = ", RANDOM WEIGHTS" if options.weights == "random" else ""
    low, middle = np.quantile(cosine, [0.05, 0.5])
    print(
        f"{encoder.alias}{label}: {len(cosine)} steps, cosine {cosine.mean():.3f}, 5 % {low:.3f}, median {middle:.3f}"
    )


if __name__ == "__main__":
    main()
