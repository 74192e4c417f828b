"""The division of a piece into windows, for any numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from musicldm.sampling.windowing import OVERLAP, STRETCH, WindowSize, divide, frames_of, gaps, plan

lengths = st.integers(1, 5000)
multiples = st.sampled_from([1, 2, 4, 8])


@st.composite
def sizes(draw: st.DrawFn) -> WindowSize:
    usual, multiple = draw(st.integers(8, 400)), draw(multiples)
    stretch = draw(st.sampled_from([1.0, STRETCH]))
    limit = draw(st.none() | st.integers(8, 400))
    return WindowSize.of(usual, int(stretch * usual), multiple, limit)


@given(st.integers(1, 400), st.integers(0, 400), multiples, st.none() | st.integers(1, 400))
def test_sizes_are_whole_multiples_within_the_limit(usual: int, more: int, multiple: int, limit: int | None) -> None:
    size = WindowSize.of(usual, usual + more, multiple, limit)
    for frames, wanted in ((size.usual, usual), (size.longest, usual + more)):
        assert frames % multiple == 0 or frames == 2
        assert frames <= max(2, multiple, wanted if limit is None else min(wanted, limit))
    assert size.usual <= size.longest
    assert size.at_once(size.longest) == size.longest and size.at_once(size.longest + 1) == size.usual


@given(lengths, sizes(), st.integers(0, 300))
def test_every_frame_is_made_exactly_once(frames: int, size: WindowSize, known: int) -> None:
    done = 0
    for number, window in enumerate(plan(frames, size, known)):
        assert window.number == number
        assert window.used > 0 and window.kept + window.used <= window.length
        done += window.used
    assert done == frames


@given(lengths, sizes(), st.integers(0, 300))
def test_windows_keep_the_end_of_the_one_before(frames: int, size: WindowSize, known: int) -> None:
    windows = list(plan(frames, size, known))
    assert windows[0].kept == min(known, size.usual // 2)
    for before, after in pairwise(windows):
        assert before.used == before.length - before.kept  # only the last one is cut
        assert after.kept == min(before.tail, size.usual // 2)
        assert before.tail == max(1, int(OVERLAP * before.length))


@given(lengths, sizes(), st.integers(0, 300))
def test_windows_are_no_longer_than_they_may_and_multiples(frames: int, size: WindowSize, known: int) -> None:
    for window in plan(frames, size, known):
        assert window.length <= size.longest
        assert window.length % size.multiple == 0 or window.length == size.longest


@given(lengths, sizes())
def test_a_piece_that_fits_is_one_window_with_little_beyond_it(frames: int, size: WindowSize) -> None:
    windows = list(plan(frames, size))
    if frames <= size.longest:
        assert len(windows) == 1 and windows[0].length - frames < size.multiple
    whole = list(plan(frames, size, joint=True))
    assert len(whole) == 1 and whole[0].length - frames < size.multiple


@given(lengths, sizes())
def test_windows_are_alike(frames: int, size: WindowSize) -> None:
    """The piece is divided evenly: the number is the least that the overlap allows, and no window stands out."""
    count, length = divide(frames, size)
    assert length <= size.longest
    step = size.longest - int(OVERLAP * size.longest)
    assert (count - 1) * step < frames and frames <= size.longest + (count - 1) * step
    windows = list(plan(frames, size))
    assert windows[0].count == count
    if size.longest >= 32:  # below, the rounding of a quarter of a window is a window's matter
        assert len(windows) <= count + 1
    assert windows[-1].count == len(windows)


@given(sizes(), lengths)
def test_a_plan_can_go_on_in_shorter_windows(size: WindowSize, frames: int) -> None:
    """As when the memory turns out to be less: what is known of the rest does not depend on what is done."""
    windows = list(plan(frames, size))
    for i, window in enumerate(windows[1:], 1):
        rest = frames - sum(each.used for each in windows[:i])
        (again, *_) = plan(rest, size, windows[i - 1].tail)
        assert (again.kept, again.length, again.used) == (window.kept, window.length, window.used)


# ---- Infilling -------------------------------------------------------------------------------------------------------


@st.composite
def ordered_spans(draw: st.DrawFn) -> list[tuple[int, int]]:
    cuts = sorted(draw(st.sets(st.integers(0, 100_000), min_size=2, max_size=12)))
    return list(zip(cuts[::2], cuts[1::2], strict=False))


@given(ordered_spans(), st.sampled_from([1, 64, 100]), st.integers(1, 200))
def test_gaps_hold_all_spans_with_their_surroundings(spans: list[tuple[int, int]], hop: int, context: int) -> None:
    frames = -(-100_000 // hop)
    found = gaps(spans, hop, frames, context)
    assert [span for gap in found for span in gap.spans] == spans
    for gap in found:
        first, last = frames_of(gap.spans[0], hop)[0], frames_of(gap.spans[-1], hop)[1]
        assert gap.begin == max(0, first - context) and gap.end == min(frames, last + context)


@given(ordered_spans(), st.sampled_from([1, 64, 100]), st.integers(1, 200))
def test_gaps_that_are_far_apart_are_separate(spans: list[tuple[int, int]], hop: int, context: int) -> None:
    found = gaps(spans, hop, -(-100_000 // hop), context)
    for before, after in pairwise(found):
        assert after.spans[0][0] - before.spans[-1][1] >= 2 * context * hop
        assert after.begin >= before.end - 2  # they share no more than the frames that a cut goes through
    for gap in found:
        for (_, end), (begin, _) in pairwise(gap.spans):
            assert begin - end < 2 * context * hop


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.sampled_from([1, 64, 100]))
def test_a_span_touches_whole_frames(first: int, length: int, hop: int) -> None:
    a, b = frames_of((first, first + length), hop)
    assert a * hop <= first < (a + 1) * hop and (b - 1) * hop < first + length <= b * hop
