"""Sample from Python: `python examples/sample.py runs/ldm out.wav`."""

import sys
from pathlib import Path

from musicldm import Pipeline
from musicldm.media.audio import files

model, out = sys.argv[1:3]
pipeline = Pipeline.load(model)
waveform = pipeline.sample(seconds=10, seed=0, sampler="ddim", steps=20)  # [channels, samples], float32

files.write(Path(out), waveform.numpy(), pipeline.sample_rate)
