"""Mel spectrograms one below the other, to see what is heard: `python benchmarks/spectrograms.py OUT.png TITLE=FILE …`

Each sound is brought to the same level first: what haze, onsets, held partials and rests look like does not depend on
it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from musicldm.evaluate.sounds import files_in
from musicldm.media.audio.spectrogram import picture

LEVEL = 0.05  # root mean square


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("sounds", nargs="+", metavar="TITLE=FILE")
    parser.add_argument("--sample-rate", type=int, default=16000)
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=12.0)
    options = parser.parse_args()
    first, last = (round(second * options.sample_rate) for second in (options.start, options.start + options.seconds))
    panels = {}
    for title, _, file in (named.partition("=") for named in options.sounds):
        (sound,) = files_in([Path(file)], options.sample_rate, 1)
        audio = sound.whole()[0, first:last]
        panels[title] = (audio * LEVEL / audio.square().mean().sqrt()).numpy()
    picture(options.output, panels, options.sample_rate)


if __name__ == "__main__":
    main()
