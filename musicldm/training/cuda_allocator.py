"""What CUDA's caching allocator would reserve, replayed without a GPU."""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 2**20


class Allocator:
    """What PyTorch's caching allocator reserves (c10/cuda/CUDACachingAllocator.cpp): the driver gives segments, blocks
    are cut from them for who fits best, and a freed one joins its free neighbours; nothing goes back to the driver.
    """

    def __init__(self) -> None:
        self.reserved = 0
        self._pools: dict[bool, list[tuple[int, int]]] = {True: [], False: []}  # small or not: free (size, start)
        self._sizes: dict[int, int] = {}  # free blocks by where they start,
        self._starts: dict[int, int] = {}  # and by where they end

    def allocate(self, size: int) -> tuple[int, int, bool]:
        """A block: its start, its size, and whether it is small."""
        # The limits here and below are the allocator's kMinBlockSize, kSmallSize, kSmallBuffer, kLargeBuffer,
        # kMinLargeAlloc and kRoundLarge, in their order.
        size = _up(size, 512)
        small = size <= MIB
        pool = self._pools[small]
        # The best fit: the smallest that is large enough, and of these the one that starts first.
        place = bisect_left(pool, (size, 0))
        if place < len(pool):
            start, room = pool[place][1], self._withdraw(pool[place][1], small)
        else:
            room = 2 * MIB if small else 20 * MIB if size < 10 * MIB else _up(size, 2 * MIB)
            start = self.reserved * 2  # so that segments are never neighbours
            self.reserved += room
        # A large block of which no more than a MiB would be left is given as a whole (should_split).
        if (spare := room - size) >= (512 if small else MIB + 1):
            self._offer(start + size, spare, small)
            room = size
        return start, room, small

    def release(self, start: int, size: int, small: bool) -> None:
        """Give back what `allocate` gave."""
        if start + size in self._sizes:
            size += self._withdraw(start + size, small)
        if start in self._starts:
            start = self._starts[start]
            size += self._withdraw(start, small)
        self._offer(start, size, small)

    def _offer(self, start: int, size: int, small: bool) -> None:
        insort(self._pools[small], (size, start))
        self._sizes[start], self._starts[start + size] = size, start

    def _withdraw(self, start: int, small: bool) -> int:
        size = self._sizes.pop(start)
        del self._starts[start + size]
        del self._pools[small][bisect_left(self._pools[small], (size, start))]
        return size


def _up(size: int, multiple: int) -> int:
    return max(1, -(-size // multiple)) * multiple
