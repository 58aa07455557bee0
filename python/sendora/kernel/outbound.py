"""The one place that dials out from Python, and the guard on where to (providers.md 7.3, reliability.md 3.4).

Clients name addresses: webhook URLs, Web Push endpoints (with a public key!), URLs inside credentials. Checking the
text of a URL is good for an early and clear answer, and worthless as protection: a name may resolve to anything, and to
something else a moment later. So the check is made at dial time: resolve once, check every address, connect to a
checked one; TLS and the Host header keep the name. No redirects, no proxy from the environment.

`httpx` is the client and only this file knows it: its successor is a change of one import.
"""

import asyncio
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakSet

import certifi
import httpcore
import httpx

from sendora.kernel.config import Settings
from sendora.kernel.metrics import Metrics

PORTS: Final = frozenset({443, 8443})
"""Where services on the open internet take HTTPS."""

URL_MAX: Final = 2_048
"""Longer ones are no addresses; push services' endpoints have about 250 characters."""

ADDRESSES_MAX: Final = 3
"""Of a name's addresses so many are tried, within one connect timeout."""

BODY_MAX: Final = 64 * 1024
"""What is read of an answer: providers and webhooks say what they have to say in far less."""

TIMEOUT: Final = httpx.Timeout(10.0, connect=5.0)
LIMITS: Final = httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=60.0)
"""Of one client: a few hundred hosts at the same time."""

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

BLOCKED: Final[tuple[_Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carriers' NAT; metadata of Alibaba's cloud
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's wire server
        "169.254.0.0/16",  # link-local; metadata of the other clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
        "::/96",  # unspecified, loopback, the old form of IPv4 in IPv6
        "64:ff9b:1::/48",  # a site's own NAT64
        "100::/64",  # discard
        "2001::/23",  # protocol assignments; Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
        "fc00::/7",  # unique local; metadata of AWS
        "fe80::/10",  # link-local
        "fec0::/10",  # site-local
        "ff00::/8",  # multicast
        # Reserved: everything outside of 2000::/3.
        *(
            "::/8",
            "100::/8",
            "200::/7",
            "400::/6",
            "800::/5",
            "1000::/4",
            "4000::/3",
            "6000::/3",
            "8000::/3",
            "a000::/3",
        ),
        *("c000::/3", "e000::/4", "f000::/5", "f800::/6", "fe00::/9"),
    )
)
"""Beside `is_global`, which lets several of these through (providers.md 7.3). The native lanes go by this list alone,
so it has whatever `is_global` and its like refuse."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")

_LOCAL_NAMES: Final = ("localhost", "localdomain", "local", "internal", "lan", "intranet", "home.arpa")
"""Names that never stand for something on the internet. Dialling would find that out; this only says it earlier."""


class BlockedAddress(httpx.ConnectError):
    """Nothing may be sent there. A kind of failed connect, so that whoever sends need not know the guard."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_REFUSALS: Final = {"address": "not a public address", "port": "a port that is not for HTTPS"}
"""What dialling can find out, by its label; `rust/lanes` says the same words."""

_LABELS: Final = {words: label for label, words in _REFUSALS.items()}


class Outbound:
    """Clients that dial only where they may."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings.outbound
        self._metrics = metrics
        self._exempt = frozenset(exempt(self._settings.allow))
        self._clients: WeakSet[httpx.AsyncClient] = WeakSet()

    async def close(self) -> None:
        """Ends the clients that are still in use."""
        for client in list(self._clients):
            await client.aclose()

    def guard(self, url: str) -> None:
        """Refuse a URL that can be refused by its text; raises BlockedAddress. What passes is checked again when
        dialled."""
        _checked(url, self._exempt)

    def allow_push_endpoint(self, url: str) -> None:
        """A Web Push endpoint comes from a client: only the push services that the operator names."""
        host, port = _checked(url, self._exempt)
        for service in self._settings.push_services:
            name, _, wanted = service.partition(":")
            if port == int(wanted or 443) and (host == name or (name.startswith(".") and host.endswith(name))):
                return
        raise BlockedAddress("not a push service that this installation knows")

    def allow_token_endpoint(self, url: str) -> None:
        """`token_uri` stands inside a client's file: only the endpoints that the operator names, letter by letter."""
        _checked(url, self._exempt)
        if url not in self._settings.token_endpoints:
            raise BlockedAddress("not a token endpoint that this installation knows")

    def client(self, http2: bool = True, *, identity: tuple[str, str] | None = None) -> httpx.AsyncClient:
        """A client with its own connections, to be kept; closed with the kernel if not before.

        `identity`: a certificate and its key (PEM) by which the other side knows us.
        """
        transport = httpx.AsyncHTTPTransport(
            verify=self._tls(identity), http1=True, http2=http2, limits=LIMITS, trust_env=False, retries=0
        )
        # httpx has no public way to hand the network backend to its pool; this is the one place that reaches in.
        if not isinstance(transport._pool._network_backend, httpcore.AsyncNetworkBackend):
            raise TypeError("this httpx keeps its network backend elsewhere: the guard would not be asked")
        transport._pool._network_backend = _Guarded(self._exempt, self._metrics)
        client = httpx.AsyncClient(transport=transport, timeout=TIMEOUT, follow_redirects=False, trust_env=False)
        self._clients.add(client)
        return client

    def native(self) -> dict[str, Any]:
        """The same guard and the same trust, as the native lanes are told of them (`rust/lanes`)."""
        system = ssl.get_default_verify_paths().cafile
        trusted = [system, certifi.where(), self._settings.ca_file]
        return {
            "caFiles": [str(file) for file in trusted if file is not None],
            "blocked": [str(network) for network in BLOCKED],
            "exempt": sorted(self._exempt),
            "ports": sorted(PORTS),
        }

    def refused(self, why: str, n: int = 1) -> None:
        """Count requests that the native lanes' copy of this guard refused; `why` in its words, or a label."""
        if self._metrics is not None:
            self._metrics.count("outbound_blocked", n, reason=_LABELS.get(why, why))

    def _tls(self, identity: tuple[str, str] | None) -> ssl.SSLContext:
        # A context for each client: httpcore sets the protocols that it offers on the context itself.
        context = ssl.create_default_context()
        # A slim container has no certificates of its own.
        context.load_verify_locations(certifi.where())
        if self._settings.ca_file is not None:
            context.load_verify_locations(self._settings.ca_file)
        if identity is not None:
            # The library takes keys from files alone; this one has no name and no place on a disk.
            with os.fdopen(os.memfd_create("identity", os.MFD_CLOEXEC), "wb", buffering=0) as memory:
                memory.write("\n".join(identity).encode())
                context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
        return context


def open_connections(client: httpx.AsyncClient) -> int:
    """Of a client that this file made; one that is being opened counts, and httpx notices late that one has ended."""
    transport = client._transport
    if not isinstance(transport, httpx.AsyncHTTPTransport):
        raise TypeError("a client of somebody else")
    return sum(not (one.is_closed() or one.has_expired()) for one in transport._pool.connections)


async def read_body(response: httpx.Response, bytes_max: int = BODY_MAX) -> bytes:
    """The beginning of a streamed answer's body; the rest is not read (API10: a provider may send ten gigabytes)."""
    parts: list[bytes] = []
    size = 0
    # The raw bytes: we ask for no content coding, and unpacking one could swell without bound.
    async for part in response.aiter_raw():
        parts.append(part)
        size += len(part)
        if size >= bytes_max:
            break
    return b"".join(parts)[:bytes_max]


def refusal_of(address: str) -> str | None:
    """Why nothing may be sent to this IP address, or None if something may."""
    try:
        ip: _Address = ipaddress.ip_address(address)
    except ValueError:
        return "not an address"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return "an address with a zone"
        # Python compares addresses of one family only: what stands for an IPv4 address must be judged as one.
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    if not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in network for network in BLOCKED):
        return "not a public address"
    return None


class _Guarded(httpcore.AsyncNetworkBackend):
    """Resolves once, checks every address, connects to a checked one."""

    def __init__(self, exempt: frozenset[tuple[str, int]], metrics: Metrics | None) -> None:
        self._exempt = exempt
        self._metrics = metrics
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                failed: Exception | None = None
                for address in addresses[:ADDRESSES_MAX]:
                    try:
                        return await self._network.connect_tcp(address, port, None, local_address, socket_options)
                    except httpcore.ConnectError as error:
                        failed = error
                raise failed or httpcore.ConnectError("the name has no address")
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"{host} did not answer in {timeout} s") from None

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise BlockedAddress("a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        exempt = (host, port) in self._exempt
        if port not in PORTS and not exempt:
            self._refuse("port")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        # One bad address among good ones is a trap, or at least nothing to build on.
        if not exempt and any(refusal_of(address) is not None for address in addresses):
            self._refuse("address")
        return addresses

    def _refuse(self, reason: str) -> None:
        if self._metrics is not None:
            self._metrics.count("outbound_blocked", reason=reason)
        raise BlockedAddress(_REFUSALS[reason])


def _checked(url: str, exempt: frozenset[tuple[str, int]]) -> tuple[str, int]:
    """Host and port of a URL that nothing in its text speaks against."""
    if not url or len(url) > URL_MAX:
        raise BlockedAddress("not a URL")
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise BlockedAddress("a URL with control characters, spaces or backslashes")
    try:
        # The same parser that the client uses: two parsers that disagree are how guards are passed.
        parsed = httpx.URL(url)
        host, port = parsed.raw_host.decode("ascii").lower(), parsed.port
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise BlockedAddress("not a URL") from None
    if parsed.scheme not in ("https", "http") or not host:
        raise BlockedAddress("not an https URL")
    if port is None:
        port = 443 if parsed.scheme == "https" else 80
    if (host, port) in exempt:
        return host, port
    if parsed.scheme != "https":
        raise BlockedAddress("not an https URL")
    if "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]:
        raise BlockedAddress("a URL with a user name")
    if port not in PORTS:
        raise BlockedAddress("a port that is not for HTTPS")
    _check_host(host)
    return host, port


def _check_host(host: str) -> None:
    if ":" in host:
        if refusal := refusal_of(host):
            raise BlockedAddress(refusal)
        return
    last = host.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        # A host that ends in a number is an IPv4 address to whoever connects, in whichever of its many spellings; only
        # the plain one is taken.
        if refusal := refusal_of(host):
            raise BlockedAddress(refusal)
        return
    if not re.fullmatch(r"(?:[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}", host):
        raise BlockedAddress("not a full host name")
    if any(host == name or host.endswith(f".{name}") for name in _LOCAL_NAMES):
        raise BlockedAddress("a local name")


def exempt(allow: Iterable[str]) -> Iterable[tuple[str, int]]:
    """`host:port` or origins, as (host, port)."""
    for entry in allow:
        url = httpx.URL(entry if "://" in entry else f"https://{entry}")
        yield url.raw_host.decode("ascii").lower(), url.port or (443 if url.scheme == "https" else 80)
