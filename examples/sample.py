"""Sample from Python: `python examples/sample.py runs/ldm out.wav`."""

import sys
from pathlib import Path

from musicldm import Generator
from musicldm.media.audio import files

model, out = sys.argv[1:3]
generator = Generator.load(model)
waveform = generator.sample(seconds=10, seed=0, sampler="ddim", steps=20)  # [channels, samples], float32

files.write(Path(out), waveform.numpy(), generator.sample_rate)
