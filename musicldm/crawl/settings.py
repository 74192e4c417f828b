"""Hosts and rate limits of the crawl; for tests, stand-ins on this machine replace the services."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from musicldm.core.errors import ConfigError


@dataclass(frozen=True)
class CrawlSettings:
    """Hosts, time-outs and pauses. A pause may be made longer; it may be shorter only towards this very machine.

    Raises:
        ConfigError: an address that is not host:port, a pause shorter than the service permits, a number that makes
            no sense.
    """

    musicbrainz: str = ""
    """host:port of a stand-in for MusicBrainz, over plain http; empty for musicbrainz.org."""

    youtube: str = ""
    """host:port of a stand-in for YouTube's search and player, over TLS; empty for YouTube."""

    contact: str = ""
    """An e-mail address or web page for the User-Agent, which MusicBrainz requires."""

    timeout: float = 20.0
    """Seconds that a server may be silent before the request counts as failed. A whole answer may take six times as
    long, and each 64 KiB of a song this long."""

    tries: int = 3
    """Tries of one request before it counts as failed."""

    retry_pause: float = 2.0
    """Seconds before the second try, never less than the service's own pause; twice as long before the third, and so
    on."""

    musicbrainz_interval: float = 1.0
    """Seconds from the start of one MusicBrainz request to the next one's: more than one a second are refused, for
    everyone behind the same address."""

    youtube_request_pause: float = 0.75
    """Seconds from the start of one small request to YouTube to the next one's."""

    youtube_pause: float = 10.0
    """Seconds from the start of one download to the next one's, at random up to twice as long."""

    rate_limit: float = float(1 << 20)
    """Bytes a second of each download; 0 for no limit."""

    jobs: int = 1
    """Songs that are searched and fetched at a time. The pauses are shared by all of them."""

    candidates: int = 10
    """Search results of YouTube that are scored for each song."""

    cookies: str = ""
    """A file of cookies, as browsers export them (Netscape format), for YouTube."""

    def __post_init__(self) -> None:
        for name in ("musicbrainz", "youtube"):
            address = getattr(self, name)
            if address and not _is_address(address):
                raise ConfigError(
                    f"{address!r} is not a valid address for {name}.", "Write host:port, as in 127.0.0.1:8080."
                )
        # These comparisons, and those below, are written so that NaN fails them too.
        for name in ("timeout", "tries", "jobs", "candidates"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be more than 0 and finite, not {getattr(self, name):g}.")
        if not (self.rate_limit >= 0 and self.retry_pause >= 0):
            raise ConfigError("rate_limit and retry_pause must not be less than 0.")
        floors = [
            ("musicbrainz_interval", CrawlSettings.musicbrainz_interval, self.musicbrainz),
            ("youtube_request_pause", CrawlSettings.youtube_request_pause, self.youtube),
            ("youtube_pause", CrawlSettings.youtube_pause, self.youtube),
        ]
        for name, floor, address in floors:
            if not getattr(self, name) >= (0 if is_loopback(address) else floor):
                raise ConfigError(
                    f"{name} must be at least {floor:g} s, not {getattr(self, name):g}.",
                    "Crawl politely, or you and others behind your address will be blocked.",
                )

    @property
    def deadline(self) -> float:
        """Seconds that one small answer may take, however it trickles in."""
        return 6 * self.timeout

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], contact: str = "", **options: Any) -> CrawlSettings:
        """The settings of the installed command.

        Every setting can be had from the variable MUSICLDM_<ITS NAME>. MUSICLDM_MUSICBRAINZ and MUSICLDM_YOUTUBE put
        stand-ins (host:port) in place of the services; towards loopback there are no pauses and limits unless set.

        Args:
            options: settings that go before the environment's; None counts as not given.

        Raises:
            ConfigError: as in the class, or a variable that is no number.
        """
        given: dict[str, Any] = {"contact": contact}
        for field in fields(cls):
            text = environment.get(f"MUSICLDM_{field.name.upper()}", "")
            if text and not given.get(field.name):
                try:
                    given[field.name] = type(getattr(cls, field.name))(text)
                except ValueError as error:
                    raise ConfigError(f"MUSICLDM_{field.name.upper()} is not a number: {text!r}.") from error
        given |= {name: value for name, value in options.items() if value is not None}
        unhurried: dict[str, Any] = {}
        if is_loopback(given.get("musicbrainz", "")):
            unhurried |= {"musicbrainz_interval": 0.0, "retry_pause": 0.0}
        if is_loopback(given.get("youtube", "")):
            unhurried |= {"youtube_request_pause": 0.0, "youtube_pause": 0.0, "retry_pause": 0.0, "rate_limit": 0.0}
        return cls(**unhurried | given)


def is_loopback(address: str) -> bool:
    """Whether `address` (host:port) is on this very machine."""
    host = urlsplit(f"//{address}").hostname or ""
    # The only name: any other would have to be resolved, by a server that may answer differently the next time.
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
