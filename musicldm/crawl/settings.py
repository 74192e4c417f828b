"""Where the crawl looks and how politely it asks; for tests, stand-ins on this machine take the services' places."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from musicldm.errors import ConfigError


@dataclass(frozen=True)
class CrawlSettings:
    """Hosts, time-outs and pauses. A pause may be made longer; it may be shorter only towards this very machine.

    Raises:
        ConfigError: an address that is not host:port, or a pause shorter than the service asks for.
    """

    musicbrainz: str = ""
    """host:port of a stand-in for MusicBrainz, over plain http; empty for musicbrainz.org."""

    youtube: str = ""
    """host:port of a stand-in for YouTube's search and player, over TLS; empty for YouTube."""

    contact: str = ""
    """An e-mail address or web page for the User-Agent, as MusicBrainz asks of everyone."""

    timeout: float = 20.0
    """Seconds that a server may be silent before the request counts as failed."""

    tries: int = 3
    """How often one request is made before it counts as failed."""

    retry_pause: float = 2.0
    """Seconds before the second try, never less than the service's own pause; twice as long before the third, and so
    on."""

    musicbrainz_interval: float = 1.0
    """Seconds from one MusicBrainz request to the next: more than one a second are refused, for everyone behind the
    same address."""

    youtube_request_pause: float = 0.75
    """Seconds between the small requests to YouTube."""

    youtube_pause: float = 10.0
    """Seconds before each download, at random up to twice as long."""

    candidates: int = 5
    """How many of YouTube's search results are weighed for each song."""

    def __post_init__(self) -> None:
        for name in ("musicbrainz", "youtube"):
            address = getattr(self, name)
            if address and not _is_address(address):
                raise ConfigError(f"{address!r} is no address for {name}.", "Write host:port, as in 127.0.0.1:8080.")
        if self.timeout <= 0 or self.tries < 1 or self.candidates < 1:
            raise ConfigError("timeout, tries and candidates must be more than 0.")
        floors = [
            ("musicbrainz_interval", CrawlSettings.musicbrainz_interval, self.musicbrainz),
            ("youtube_request_pause", CrawlSettings.youtube_request_pause, self.youtube),
            ("youtube_pause", CrawlSettings.youtube_pause, self.youtube),
        ]
        for name, floor, address in floors:
            if getattr(self, name) < floor and not is_loopback(address):
                raise ConfigError(
                    f"{name} must be at least {floor:g} s, not {getattr(self, name):g}.",
                    "Crawl politely, or you and others behind your address will be shut out.",
                )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], contact: str = "") -> CrawlSettings:
        """The settings of the installed command.

        MUSICLDM_MUSICBRAINZ and MUSICLDM_YOUTUBE put stand-ins (host:port) in the services' places; towards loopback
        there are no pauses.

        Raises:
            ConfigError: an address that is not host:port.
        """
        musicbrainz, youtube = environment.get("MUSICLDM_MUSICBRAINZ", ""), environment.get("MUSICLDM_YOUTUBE", "")
        settings = cls(musicbrainz, youtube, contact)
        if is_loopback(musicbrainz):
            settings = replace(settings, musicbrainz_interval=0.0, retry_pause=0.0)
        if is_loopback(youtube):
            settings = replace(settings, youtube_request_pause=0.0, youtube_pause=0.0, retry_pause=0.0)
        return settings


def is_loopback(address: str) -> bool:
    """Whether `address` (host:port) is on this very machine."""
    host = urlsplit(f"//{address}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(f"//{address}")
        return bool(parts.hostname and parts.port) and parts.netloc == address
    except ValueError:  # a port that is no number, or too large
        return False
