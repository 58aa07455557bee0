"""Provider tokens: one for the whole cluster, made when it is time and never more often."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs

import msgspec
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from tests.conftest import eventually
from tests.make import Org
from tests.modules.push.conftest import P8, RSA

from sendora.kernel.errors import Unavailable
from sendora.kernel.ids import OrgId, new_id
from sendora.kernel.life import Kernel
from sendora.kernel.outbound import Outbound
from sendora.modules.push.grants import MINTS_MAX, Grants
from sendora.modules.push.model.providers import Apns, Credential, Fcm


class TokenServer:
    """An OAuth endpoint that counts, and that can be down."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.down = False
        self.hold: asyncio.Event | None = None
        self.answer: dict[str, object] = {}
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.asked.append(parse_qs((await reader.readexactly(length)).decode()))
        nth = len(self.asked)
        if self.hold is not None:
            await self.hold.wait()
        said = {"access_token": f"ya29.{nth}", "token_type": "Bearer", "expires_in": 3_600, **self.answer}
        status, body = (b"500 Oops", b"") if self.down else (b"200 OK", msgspec.json.encode(said))
        writer.write(b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body))
        writer.close()


@pytest.fixture
async def oauth() -> AsyncIterator[TokenServer]:
    server = TokenServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    server.url = f"http://127.0.0.1:{port}/token"
    async with listening:
        yield server


@pytest.fixture
def dialling(kernel: Kernel, oauth: TokenServer) -> Kernel:
    """A kernel that may ask the token server."""
    host = oauth.url.removeprefix("http://").removesuffix("/token")
    outbound = msgspec.structs.replace(kernel.settings.outbound, allow=(host,), token_endpoints=(oauth.url,))
    settings = msgspec.structs.replace(kernel.settings, outbound=outbound)
    return replace(kernel, settings=settings, outbound=Outbound(settings))


def fcm(org: OrgId, url: str) -> Credential:
    secret = Fcm(project="p", client_email="a@b", private_key=RSA, private_key_id="k", token_uri=url)
    return Credential(org=org, id=new_id(), secret=secret)


def apple(org: OrgId) -> Credential:
    secret = Apns(p8=P8, key_id="ABC123DEFG", team_id="TEAM123456", bundle_ids=["a"], environment=None)
    return Credential(org=org, id=new_id(), secret=secret)


async def age(kernel: Kernel, credential: Credential, seconds: float) -> None:
    """Let the stored token be so much older."""
    await kernel.db.execute(
        "UPDATE push_grants SET minted_at = minted_at - $3::interval, expires_at = expires_at - $3::interval"
        " WHERE org_id = $1 AND provider_id = $2",
        credential.org,
        credential.id,
        timedelta(seconds=seconds),
    )


async def test_one_token_for_all_who_ask(dialling: Kernel, oauth: TokenServer, org: Org) -> None:
    """Many tasks in several processes at once: one exchange, whose assertion the endpoint can verify."""
    credential = fcm(org.id, oauth.url)
    processes = [Grants(dialling) for _ in range(4)]
    said = await asyncio.gather(*(grants.token(credential) for grants in processes for _ in range(5)))
    assert set(said) == {"ya29.1"} and len(oauth.asked) == 1
    assert oauth.asked[0]["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    claims = jwt.decode(oauth.asked[0]["assertion"][0], RSAKey.import_key(RSA), algorithms=["RS256"]).claims
    assert claims["aud"] == oauth.url
    sealed = await dialling.db.fetchval("SELECT sealed FROM push_grants WHERE provider_id = $1", credential.id)
    assert b"ya29" not in sealed


async def test_an_endpoint_that_hangs_holds_up_its_own_credential_alone(
    dialling: Kernel, oauth: TokenServer, org: Org
) -> None:
    """Of two apps of a project one may have a token while the other's endpoint says nothing; what it says at last is
    there for the next chunk. Without any other to go on with, it is waited for."""
    grants = Grants(dialling)
    ours, theirs, sealed = apple(org.id), fcm(org.id, oauth.url), msgspec.structs.replace(fcm(org.id, ""), secret=None)
    oauth.hold = asyncio.Event()
    assert set(await grants.tokens([ours, theirs, sealed])) == {ours.id}
    alone = asyncio.create_task(grants.tokens([theirs]))
    await asyncio.sleep(0)
    oauth.hold.set()
    assert await alone == {theirs.id: "ya29.1"}
    assert set(await grants.tokens([ours, theirs, sealed])) == {ours.id, theirs.id}
    assert await grants.tokens([sealed]) == {}
    assert len(oauth.asked) == 1


async def test_an_endpoint_that_hangs_holds_few_connections(dialling: Kernel, oauth: TokenServer, org: Org) -> None:
    """Each exchange has a row locked, and so a connection of the pool that leases and outcomes live from."""
    grants = Grants(dialling)
    good = fcm(org.id, oauth.url)
    assert await grants.token(good) == "ya29.1"
    oauth.hold = asyncio.Event()
    hanging = [asyncio.create_task(grants.token(fcm(org.id, oauth.url))) for _ in range(3 * MINTS_MAX)]
    await eventually(lambda: len(oauth.asked) == 1 + MINTS_MAX)
    # Whoever has a token in the row does not wait behind them.
    async with asyncio.timeout(3):
        grants._kept.clear()
        assert await grants.token(good) == "ya29.1"
    assert len(oauth.asked) == 1 + MINTS_MAX
    oauth.hold.set()
    assert len(set(await asyncio.gather(*hanging))) == 3 * MINTS_MAX


async def test_an_old_token_is_renewed(dialling: Kernel, oauth: TokenServer, org: Org) -> None:
    """After 45 minutes, by whoever finds it so."""
    credential = fcm(org.id, oauth.url)
    assert await Grants(dialling).token(credential) == "ya29.1"
    await age(dialling, credential, 44 * 60)
    assert await Grants(dialling).token(credential) == "ya29.1"
    await age(dialling, credential, 2 * 60)
    assert await Grants(dialling).token(credential) == "ya29.2"


async def test_a_refused_token_is_renewed_at_most_every_20_minutes(kernel: Kernel, org: Org) -> None:
    """F-V7: Apple answers 429 to a team that changes its token too often."""
    credential, grants = apple(org.id), Grants(kernel)
    first = await grants.token(credential)
    claims = jwt.decode(first, ECKey.import_key(P8), algorithms=["ES256"]).claims
    assert set(claims) == {"iss", "iat"}
    assert await grants.token(credential, refused=first) == first
    await age(kernel, credential, 21 * 60)
    second = await grants.token(credential, refused=first)
    assert second != first
    # Another process that held the first one gets the second, and makes none.
    assert await Grants(kernel).token(credential, refused=first) == second


async def test_google_is_asked_anew_when_it_refuses(dialling: Kernel, oauth: TokenServer, org: Org) -> None:
    """A token that Google has revoked is not kept for 20 minutes: that floor is Apple's."""
    credential = fcm(org.id, oauth.url)
    grants = Grants(dialling)
    first = await grants.token(credential)
    assert await grants.token(credential, refused=first) == first, "not in a circle"
    await age(dialling, credential, 11)
    assert await grants.token(credential, refused=first) == "ya29.2"
    assert len(oauth.asked) == 2


async def test_an_outage_of_the_endpoint_spends_the_old_token(dialling: Kernel, oauth: TokenServer, org: Org) -> None:
    """F-V10: the old token to its end, then wait; nobody fails."""
    credential = fcm(org.id, oauth.url)
    assert await Grants(dialling).token(credential) == "ya29.1"
    oauth.down = True
    await age(dialling, credential, 50 * 60)
    assert await Grants(dialling).token(credential) == "ya29.1"
    await age(dialling, credential, 11 * 60)
    asked, grants = len(oauth.asked), Grants(dialling)
    failed = await asyncio.gather(*(grants.token(credential) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in failed] == [Unavailable] * 5
    assert len(oauth.asked) == asked + 1, "who waited for the first does not ask in turn"
    oauth.down = False
    assert (await Grants(dialling).token(credential)).startswith("ya29.")


@pytest.mark.parametrize("answer", [{"access_token": None}, {"access_token": "a\nb"}, {"access_token": 7}])
async def test_what_is_no_token(dialling: Kernel, oauth: TokenServer, org: Org, answer: dict[str, object]) -> None:
    """It becomes a header: nothing else may come in."""
    oauth.answer = answer
    with pytest.raises(Unavailable):
        await Grants(dialling).token(fcm(org.id, oauth.url))


async def test_an_endpoint_that_is_not_allowed_is_not_asked(kernel: Kernel, oauth: TokenServer, org: Org) -> None:
    """A credential that was stored under other settings, or before them."""
    with pytest.raises(Unavailable):
        await Grants(kernel).token(fcm(org.id, oauth.url))
    assert not oauth.asked
