"""How loud a sound is to people, by EBU R128: measured by ffmpeg's filter as the sound streams by."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.filter import Graph

from musicldm.audio.decode import Floats

_GATE = -70.0  # LUFS; blocks below do not count, and where none counts ffmpeg says this much


class LoudnessMeter:
    """Integrated loudness by ITU-R BS.1770-4: K-weighting, blocks of 400 ms, gates at -70 LUFS and -10 LU."""

    def __init__(self, sample_rate: int, channels: int) -> None:
        self._rate = sample_rate
        self._layout = {1: "mono", 2: "stereo"}[channels]
        self._samples = 0
        self._loudness = _GATE
        self._graph = Graph()
        source = self._graph.add_abuffer(
            sample_rate=sample_rate, format="flt", layout=self._layout, time_base=Fraction(1, sample_rate)
        )
        meter, sink = self._graph.add("ebur128", "metadata=1:framelog=quiet"), self._graph.add("abuffersink")
        source.link_to(meter)
        meter.link_to(sink)
        self._graph.configure()

    def add(self, audio: Floats) -> None:
        """Go on with the samples [C, n]."""
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(audio.T).reshape(1, -1), format="flt", layout=self._layout
        )
        frame.sample_rate, frame.pts = self._rate, self._samples
        self._samples += audio.shape[1]
        self._graph.push(frame)
        self._pull()

    def integrated(self) -> float | None:
        """LUFS of all that was added, which ends here; None where it is shorter than a block or all below the gate."""
        self._graph.push(None)
        self._pull()
        return self._loudness if self._loudness > _GATE else None

    def _pull(self) -> None:
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            # A last frame that is cut short has no measurement.
            self._loudness = float(frame.metadata.get("lavfi.r128.I", self._loudness))
