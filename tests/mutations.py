"""JSON that is almost right: one thing in it is not what it should be."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

RAW = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for what `json.dumps` would not write."""
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1_000_000, 1 << 31, -(1 << 63), 1 << 64, 10**400),
    *(0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *("", "x", "nan", "\0", "\x1b[2J", "a\nb", "../../etc/passwd", "/dev/zero", "C:\\x", "\ud800", "é" * 70_000),
    *([], {}, [1], ["x"], [None], {"": 0}, {"x": {}}, [[[]]], [1.5] * 2000),
    *(f"{RAW}1e999", f"{RAW}{'[' * 60}{']' * 60}", f"{RAW}{'[' * 100_000}", RAW + '{"a":' * 900 + "0" + "}" * 900),
)


def mutations(good: Any, count: int, seed: int) -> Iterator[bytes]:
    """So many times the same plain data as JSON, each time with a fault or two; a few are no JSON any more."""
    chance = random.Random(seed)
    for number in range(count):
        data = copy.deepcopy(good)
        for _ in range(1 if number % 4 else 2):
            data = _mutated(data, chance)
        text = bytearray(written(data))
        if number % 16 == 0 and text:
            del text[chance.randrange(len(text)) :]
        elif number % 16 == 1 and text:
            text[chance.randrange(len(text))] = chance.randrange(256)
        yield bytes(text)


def written(data: Any) -> bytes:
    """JSON, in which a text that begins with RAW stands as it is."""
    text = json.dumps(data, separators=(",", ":"))
    mark = json.dumps(RAW)[1:-1]
    while (at := text.find(f'"{mark}')) >= 0:
        end = text.index('"', at + 1 + len(mark))
        while text[end - 1] == "\\":
            end = text.index('"', end + 1)
        text = text[:at] + json.loads(text[at : end + 1])[1:] + text[end + 1 :]
    return text.encode()


def _mutated(data: Any, chance: random.Random) -> Any:
    """One value replaced, doubled, taken away or put in the place of another one."""
    places = list(_places(data))
    if not places:
        return chance.choice(NASTY)
    holder, key = chance.choice(places)
    kind = chance.randrange(10)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        other, place = chance.choice(places)
        holder[key] = copy.deepcopy(other[place])
    elif kind == 2 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == 3 and isinstance(holder[key], int | float):
        holder[key] = -holder[key] if chance.random() < 0.5 else holder[key] * 1000 + 1
    elif kind == 4 and isinstance(holder[key], list):
        holder[key] = holder[key] * 2
    else:
        holder[key] = chance.choice(NASTY)
    return data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in plain data, as what holds it and its key."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield data, key
        yield from _places(value)
