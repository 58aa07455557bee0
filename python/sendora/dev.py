"""`sendora dev`: the whole cluster in the foreground, on the same data folder every time.

At the first start it makes an org with both keys and, when the simulator plays the providers, stores the simulator's
credentials through the API, so that a first push needs no account at Apple or Google. `FOLDER/env` holds the URL and
the keys for a shell to source; it appears when everything is ready. `FOLDER/settings.env` holds the settings of the
cluster, so that `sendora doctor` and other commands can be pointed at it.
"""

import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
import msgspec

from sendora.cluster import Cluster, RoleDied
from sendora.modules import orgs

WATCH_EVERY_S: Final = 1.0


async def run(folder: Path, *, port: int, dispatchers: int, simulator: bool) -> int:
    """Run until interrupted, or until a process ends on its own (exit status 1)."""
    folder.mkdir(parents=True, exist_ok=True)
    shell = folder / "env"
    shell.unlink(missing_ok=True)
    async with Cluster(
        folder, dispatchers=dispatchers, simulator=simulator, logs_to_terminal=True, port=port
    ) as cluster:
        keys = await _keys(folder, cluster)
        if simulator:
            await _store_credentials(cluster, keys)
        _write(folder / "settings.env", {k: v for k, v in cluster.environment.items() if k.startswith("SENDORA_")})
        _write(shell, {"URL": f"{cluster.url}/api/v1", "PK": keys.public_key, "SK": keys.secret_key})
        print(f"\nSendora is ready at {cluster.url}. For its keys: source {shell}. Ctrl-C ends it.\n", flush=True)
        try:
            while True:
                cluster.check()
                await asyncio.sleep(WATCH_EVERY_S)
        except RoleDied as error:
            print(f"sendora: {error}", flush=True)
            return 1


def _write(file: Path, values: Mapping[str, str]) -> None:
    """Lines that a shell can source; for the owner's eyes only."""
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()))


async def _keys(folder: Path, cluster: Cluster) -> orgs.Bootstrapped:
    """The keys of the folder's org, made at its first start."""
    file = folder / "keys.json"
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=orgs.Bootstrapped)
    made = await orgs.bootstrap(cluster.settings, "Default", "business", "default", None)
    file.touch(mode=0o600)
    file.write_bytes(msgspec.json.encode(made))
    return made


async def _store_credentials(cluster: Cluster, keys: orgs.Bootstrapped) -> None:
    """What an operator does once with Apple's and Google's; here the simulator's."""
    minted = await cluster.ask_simulator("GET", "/_/credentials")
    async with httpx.AsyncClient(trust_env=False) as client:
        headers = {"x-api-key": keys.secret_key}
        providers = f"{cluster.url}/api/v1/push/providers"
        for name, body in (("apns", minted["apns"]), ("fcm", {"serviceAccount": minted["fcm"]["serviceAccount"]})):
            (await client.put(f"{providers}/{name}", json=body, headers=headers)).raise_for_status()
