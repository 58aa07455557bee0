"""The guard on outbound addresses: hostile URLs by their text, and by what their names resolve to when dialled."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import msgspec
import pytest

from loadtests.certificates import Issued, issue
from sendora.kernel import config
from sendora.kernel.config import Settings
from sendora.kernel.metrics import Metrics
from sendora.kernel.outbound import BLOCKED, BlockedAddress, Outbound, read_body, refusal_of

HOSTILE_HOSTS = (
    # this machine, in all its spellings
    "127.0.0.1 127.1 127.0.1 127.255.255.254 0 0.0.0.0 0177.0.0.1 0x7f.0.0.1 0x7f.1 0x7f000001 2130706433 017700000001 "
    "127.0.0.1. 127.0.0.0x1 00127.0.0.1 0000127.0.0.1 localhost LOCALHOST localhost. a.localhost localhost.localdomain "
    "[::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [::7f00:1] [0:0:0:0:0:ffff:7f00:1] "
    "[64:ff9b::127.0.0.1] [64:ff9b::7f00:1] [64:ff9b:1::7f00:1] [2002:7f00:1::] [2001:0:7f00:1::] "
    "①②⑦.⓪.⓪.① 127。0。0。1 127．0．0．1 ｌｏｃａｌｈｏｓｔ [::1%25lo] [fe80::1%25eth0] "
    # private networks
    "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 192.168.255.255 100.64.0.1 100.127.255.255 "
    "0xa.0.0.1 012.0.0.1 167772161 192.168.257 192.168.0x101 3232235777 [::ffff:10.0.0.1] [::ffff:a00:1] "
    "[::ffff:c0a8:1] [64:ff9b::10.0.0.1] [fc00::1] [fd12:3456:789a::1] [fec0::1] [2002:a00:1::] [2002:c0a8:101::1] "
    # clouds' metadata
    "169.254.169.254 169.254.170.2 0xa9fea9fe 2852039166 0xa9.0xfe.0xa9.0xfe 0251.0376.0251.0376 169.254.43518 "
    "[::ffff:169.254.169.254] [::ffff:a9fe:a9fe] [64:ff9b::a9fe:a9fe] [fd00:ec2::254] 100.100.100.200 168.63.129.16 "
    "192.0.0.192 metadata.google.internal metadata [::ffff:168.63.129.16] [::ffff:100.100.100.200] "
    # not for anybody
    "0.1.2.3 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 "
    "239.255.255.255 240.0.0.1 255.255.255.255 [ff02::1] [ff0e::1] [fe80::1] [febf::1] [100::1] [2001:db8::1] "
    "[3fff::1] [5f00::1] [2001::1] [2001:10::1] [::ffff:224.0.0.1] [::ffff:0:127.0.0.1] "
    # not a full name
    "intranet printer.local router.lan db.internal nas.home.arpa com a..b .a.example a.example. -a.example a-.example "
    "a_.example 1.2.3.4.5 999.1.1.1 256.256.256.256 1.2.3.4. example.123 example.0x7f 0x.example.0x1"
).split()

HOSTILE_URLS = (
    "http://example.com/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
    "//example.com/",
    "example.com",
    "",
    " https://example.com/",
    "https://example.com/ ",
    "https://",
    "https:///path",
    "https://:443/",
    "https:example.com",
    "https://exa mple.com/",
    "https://example.com\\@127.0.0.1/",
    "https://example.com\\.evil.example/",
    "https:\\\\example.com/",
    "https://example.com/\r\nHost: 127.0.0.1",
    "https://example.com/\x00",
    "https://exam\x00ple.com/",
    "https://example.com\t/",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://@example.com/",
    "https://example.com@127.0.0.1/",
    "https://127.0.0.1@10.0.0.1/",
    "https://127.0.0.1#@example.com/",
    "https://127.0.0.1?@example.com/",
    "https://example.com:80/",
    "https://example.com:22/",
    "https://example.com:6379/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://example.com:443a/",
    "https://example.com:4\u06633/",
    "https://[::1/",
    "https://::1/",
    "https://[127.0.0.1]/",
    "https://[::1]example.com/",
    "https://[v1.x]/",
    "https://%31%32%37.0.0.1/",
    "https://example%2ecom/",
    "https://example.com%00.evil.example/",
    "https://xn--/",
    "https://1.2.3/",
    "https://xn--a.example/" + "a" * 2_048,
    "https://" + "a" * 64 + ".example/",
    "https://" + "a." * 200 + "example/\u0000",
    "https://\ud800.example/",
)


def hostile() -> list[str]:
    return [*HOSTILE_URLS, *(f"https://{host}/hook" for host in HOSTILE_HOSTS)]


@pytest.fixture
def outbound() -> Outbound:
    return Outbound(Settings())


@pytest.mark.parametrize("url", hostile())
def test_a_hostile_url_is_refused_by_its_text(outbound: Outbound, url: str) -> None:
    """reliability.md 3.4: whatever can be seen without dialling is refused early."""
    with pytest.raises(BlockedAddress):
        outbound.guard(url)


def test_the_corpus_is_large() -> None:
    assert len(set(hostile())) >= 150


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?x=1",
        "https://EXAMPLE.com/",
        "https://example.com:8443/",
        "https://bücher.example/",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]/",
        "https://[64:ff9b::8.8.8.8]/",
        "https://my-host_1.shop.example/",
    ],
)
def test_what_is_public_passes(outbound: Outbound, url: str) -> None:
    outbound.guard(url)


@pytest.mark.parametrize("host", [host for host in HOSTILE_HOSTS if "%" not in host])
async def test_no_hostile_host_is_ever_connected_to(
    outbound: Outbound, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hosts without the textual check: the dialler refuses them, or nothing resolves."""
    dialled: list[Any] = []

    async def connect(self: Any, host: str, port: int, *rest: Any, **named: Any) -> Any:
        dialled.append((host, port))
        raise httpx.ConnectError("for the test")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect)
    async with outbound.client() as client:
        with pytest.raises((httpx.ConnectError, httpx.InvalidURL, httpx.UnsupportedProtocol)):
            await client.get(f"https://{host}/")
    assert dialled == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("1.1.1.1", True),
        ("2606:4700:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("168.63.129.16", False),
        ("192.0.0.8", False),
        ("192.88.99.1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("3fff::1", False),
        ("2002:7f00:1::", False),
        ("2001::1", False),
        ("::127.0.0.1", False),
        ("fe80::1%lo", False),
        ("2606:4700:4700::1111%1", False),
        ("0x7f.1", False),
        ("", False),
    ],
)
def test_addresses(address: str, public: bool) -> None:
    """providers.md 7.3: also those that Python calls global."""
    assert (refusal_of(address) is None) == public


def test_every_blocked_range_is_blocked_at_both_ends() -> None:
    for network in BLOCKED:
        for address in (network[0], network[-1]):
            assert refusal_of(str(address)) is not None, address
            if isinstance(address, ipaddress.IPv4Address):
                assert refusal_of(f"::ffff:{address}") is not None, address
                assert refusal_of(str(ipaddress.IPv6Address((0x64FF9B << 96) + int(address)))) is not None, address


# -- names that lie ----------------------------------------------------------------------------------------------------


class Names:
    """What names resolve to in a test; counts the questions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        real = asyncio.base_events.BaseEventLoop.getaddrinfo

        async def getaddrinfo(loop: Any, host: Any, port: Any, **options: Any) -> Any:
            if host not in self.answers:
                return await real(loop, host, port, **options)
            self.asked.append(host)
            answers = self.answers[host]
            addresses = answers.pop(0) if len(answers) > 1 else answers[0]
            family = {True: socket.AF_INET6, False: socket.AF_INET}
            return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

        for loop_class in {asyncio.base_events.BaseEventLoop, type(asyncio.get_running_loop())}:
            monkeypatch.setattr(loop_class, "getaddrinfo", getaddrinfo, raising=False)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def test_a_name_that_resolves_inside_is_refused(names: Names) -> None:
    """Every address is checked: one bad among good ones is enough."""
    metrics = Metrics()
    outbound = Outbound(Settings(), metrics)
    names.answers = {
        "inside.example": [["10.0.0.1"]],
        "mixed.example": [["8.8.8.8", "169.254.169.254"]],
        "six.example": [["::ffff:127.0.0.1"]],
        "zone.example": [["fe80::1%2"]],
    }
    async with outbound.client() as client:
        for name in names.answers:
            with pytest.raises(BlockedAddress):
                await client.get(f"https://{name}/")
    assert metrics.value("outbound_blocked", reason="address") == 4
    assert names.asked == list(names.answers)


async def test_rebinding_meets_the_pinned_address(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolved once: what was checked is what is dialled, whatever the name says a moment later."""
    dialled: list[str] = []

    async def connect(self: Any, host: str, port: int, *rest: Any, **named: Any) -> Any:
        dialled.append(host)
        raise httpcore.ConnectError("for the test")

    monkeypatch.setattr("httpcore.AnyIOBackend.connect_tcp", connect)
    names.answers = {"rebind.example": [["93.184.216.34", "2606:4700:4700::1111"], ["127.0.0.1"]]}
    outbound = Outbound(Settings())
    async with outbound.client() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("https://rebind.example/")
        assert dialled == ["93.184.216.34", "2606:4700:4700::1111"]
        assert names.asked == ["rebind.example"]
        # The next attempt asks and checks again.
        with pytest.raises(BlockedAddress):
            await client.get("https://rebind.example/")


async def test_a_resolver_that_fails_is_no_way_in(outbound: Outbound) -> None:
    """Fail closed."""
    async with outbound.client() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get("https://does-not-exist.invalid/")
        with pytest.raises(httpx.ConnectError):
            await client.get("https://" + "a" * 63 + "." + "b" * 63 + ".invalid/")


# -- what may be dialled although it is private ------------------------------------------------------------------------


@pytest.fixture
def certificate(tmp_path: Path) -> Issued:
    return issue(tmp_path, "sim.test")


@asynccontextmanager
async def tls_server(certificate: Issued, answer: bytes) -> AsyncIterator[tuple[int, list[tuple[str | None, bytes]]]]:
    """Speaks HTTP/1.1 once for each connection; notes the server name of the handshake and the request."""
    seen: list[tuple[str | None, bytes]] = []
    server_names: list[str | None] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.chain, certificate.key)
    context.sni_callback = lambda connection, name, context: server_names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        seen.append((server_names[-1], request))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


def allowing(certificate: Issued, *allow: str) -> Outbound:
    settings = Settings(outbound=config.Outbound(allow=allow, ca_file=str(certificate.authority)))
    return Outbound(settings)


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


@pytest.mark.parametrize("entry", ["sim.test:{}", "https://sim.test:{}", "https://sim.test:{}/path"])
async def test_the_simulator_may_be_dialled(names: Names, certificate: Issued, entry: str) -> None:
    """An entry frees one host and port, no more; TLS and Host keep the name though an address is dialled."""
    names.answers = {"sim.test": [["127.0.0.1"]], "other.test": [["127.0.0.1"]]}
    async with tls_server(certificate, OK) as (port, seen):
        outbound = allowing(certificate, entry.format(port))
        outbound.guard(f"https://sim.test:{port}/send")
        async with outbound.client(http2=False) as client:
            answer = await client.get(f"https://sim.test:{port}/send")
            assert (answer.status_code, answer.text) == (200, "ok")
            server_name, request = seen[0]
            assert server_name == "sim.test"
            assert f"host: sim.test:{port}".encode() in request.lower()
            for blocked in (f"https://other.test:{port}/", f"https://127.0.0.1:{port}/", "https://sim.test/"):
                with pytest.raises(BlockedAddress):
                    await client.get(blocked)
        with pytest.raises(BlockedAddress):
            outbound.guard(f"https://sim.test:{port + 1}/")
    assert len(seen) == 1


async def test_an_unknown_certificate_is_refused(names: Names, certificate: Issued) -> None:
    """The operator's authority counts only when it is named; the wrong name never does."""
    names.answers = {"sim.test": [["127.0.0.1"]], "wrong.test": [["127.0.0.1"]]}
    async with tls_server(certificate, OK) as (port, seen):
        distrusting = Outbound(Settings(outbound=config.Outbound(allow=(f"sim.test:{port}",))))
        async with distrusting.client() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://sim.test:{port}/")
        async with allowing(certificate, f"wrong.test:{port}").client() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"https://wrong.test:{port}/")
    assert seen == []


async def test_redirects_are_not_followed(names: Names, certificate: Issued) -> None:
    """A public host may not send us inside."""
    names.answers = {"sim.test": [["127.0.0.1"]]}
    away = b"HTTP/1.1 302 Found\r\nlocation: https://169.254.169.254/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with tls_server(certificate, away) as (port, seen):
        async with allowing(certificate, f"sim.test:{port}").client() as client:
            assert (await client.get(f"https://sim.test:{port}/")).status_code == 302
        assert len(seen) == 1


async def test_an_answer_is_read_up_to_a_bound(names: Names, certificate: Issued) -> None:
    """API10: ten gigabytes, or a bomb in gzip, cost no more than the bound."""
    names.answers = {"sim.test": [["127.0.0.1"]]}
    large = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with tls_server(certificate, large) as (port, _):
        outbound = allowing(certificate, f"sim.test:{port}")
        client = outbound.client(http2=False)
        async with client.stream("GET", f"https://sim.test:{port}/") as response:
            assert await read_body(response, 1_000) == b"x" * 1_000
        await outbound.close()
        assert client.is_closed


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch, outbound: Outbound) -> None:
    """A proxy would resolve for us, behind the guard."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with outbound.client() as client:
        assert not client._mounts
        assert not client.trust_env


# -- allowlists --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://fcm.googleapis.com/fcm/send/abc", True),
        ("https://updates.push.services.mozilla.com/wpush/v2/x", True),
        ("https://web.push.apple.com/QABC", True),
        ("https://wns2-by3p.notify.windows.com/w/?token=x", True),
        ("https://FCM.googleapis.com/x", True),
        ("https://fcm.googleapis.com:8443/x", False),
        ("https://fcm.googleapis.com.evil.example/x", False),
        ("https://evilfcm.googleapis.com/x", False),
        ("https://notify.windows.com/x", False),
        ("https://evilnotify.windows.com/x", False),
        ("https://fcm.googleapis.com@evil.example/x", False),
        ("http://fcm.googleapis.com/x", False),
        ("https://example.com/x", False),
        ("https://127.0.0.1/x", False),
    ],
)
def test_push_endpoints(outbound: Outbound, url: str, allowed: bool) -> None:
    """Web Push endpoints come with a public key: only services that are named."""
    if allowed:
        outbound.allow_push_endpoint(url)
    else:
        with pytest.raises(BlockedAddress):
            outbound.allow_push_endpoint(url)


def test_the_simulators_push_service() -> None:
    """Configuration extends both lists."""
    section = config.Outbound(
        allow=("127.0.0.1:9443",),
        push_services=("127.0.0.1:9443",),
        token_endpoints=("https://127.0.0.1:9443/token",),
    )
    outbound = Outbound(msgspec.structs.replace(Settings(), outbound=section))
    outbound.allow_push_endpoint("https://127.0.0.1:9443/web/abc")
    outbound.allow_token_endpoint("https://127.0.0.1:9443/token")
    for url in ("https://127.0.0.1:9444/web/abc", "https://127.0.0.1/web/abc", "https://fcm.googleapis.com/x"):
        with pytest.raises(BlockedAddress):
            outbound.allow_push_endpoint(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://oauth2.googleapis.com/token/",
        "https://oauth2.googleapis.com/token?x",
        "https://oauth2.googleapis.com/",
        "https://OAUTH2.googleapis.com/token",
        "https://oauth2.googleapis.com.evil.example/token",
        "http://oauth2.googleapis.com/token",
        "https://accounts.google.com/o/oauth2/token",
        "https://169.254.169.254/token",
    ],
)
def test_token_endpoints(outbound: Outbound, url: str) -> None:
    """`token_uri` is taken letter by letter."""
    outbound.allow_token_endpoint("https://oauth2.googleapis.com/token")
    with pytest.raises(BlockedAddress):
        outbound.allow_token_endpoint(url)
