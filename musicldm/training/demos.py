"""What a model in training sounds and looks like: `demos/step-N/*.wav|png`, and TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from musicldm.core import durable
from musicldm.training.logging import TensorBoard
from musicldm.training.trainable import Trainable


def write_demos(module: Trainable[Any], folder: Path, board: TensorBoard) -> None:
    """Write the demos of this step, a waveform each with its spectrogram, and the module's other pictures."""
    from matplotlib.image import imread

    from musicldm.media.audio import files, spectrogram

    writer, step = board.writer, module.step
    folder = durable.make_folder(folder / f"step-{step}")
    with torch.inference_mode():
        demos, pictures = module.demos(), module.pictures(folder)
    for demo in demos:
        # Samples become whole numbers in the file, which has none beyond ±1.
        audio = {title: waveform.float().cpu().clamp(-1, 1).numpy() for title, waveform in demo.audio.items()}
        for title, waveform in audio.items():
            files.write(folder / f"{demo.name}-{title}.wav", waveform, demo.sample_rate)
            writer.add_audio(f"{demo.name}/{title}", waveform.mean(axis=0), step, demo.sample_rate)
        pictures.append(folder / f"{demo.name}.png")
        spectrogram.picture(pictures[-1], audio, demo.sample_rate)
    for picture in pictures:
        writer.add_image(picture.stem, imread(picture), step, dataformats="HWC")
