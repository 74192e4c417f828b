"""Looking into pages as a browser does."""

from __future__ import annotations

import base64
from html.parser import HTMLParser

# When sound number i has moved on from its middle, and the line in its picture with it.
PLAYS = """
number => new Promise(done => {
  const sound = document.querySelectorAll('audio')[number], line = document.querySelectorAll('.seen i')[number];
  sound.addEventListener('error', () => done(sound.error.message));
  sound.addEventListener('timeupdate', () => {
    if (sound.currentTime > 0.6 * sound.duration && parseFloat(line.style.left) > 50) done('plays');
  });
  setTimeout(() => done(`stands at ${sound.currentTime} of ${sound.duration} s`), 60000);
})
"""


class Elements(HTMLParser):
    """Names and attributes of all that a page holds, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self, tag: str) -> list[bytes]:
        """What is embedded in elements of that name."""
        urls = [str(attributes["src"]) for name, attributes in self.found if name == tag]
        return [base64.b64decode(url.partition(";base64,")[2], validate=True) for url in urls]
