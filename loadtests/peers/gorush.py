"""gorush's sender: the Go program `apns2/`, built where a Go toolchain is present.

gorush's APNs host is a constant, so it cannot be pointed at a simulator. Measured is the library that it sends with
(`sideshow/apns2`), with gorush's default of 100 pushes at a time and no queue, API or record around it.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from loadtests.harness import go_program, output
from loadtests.sender import mint
from sendora.cluster import Cluster

SOURCE: Final = Path(__file__).parent / "apns2"
NOTE: Final = "gorush: its sender sideshow/apns2 in a Go program, because gorush's APNs host is a constant"
PAYLOAD: Final = {
    "aps": {"alert": {"title": "Hello", "body": "Something is new for you"}, "sound": "default"},
    "sendoraSendId": "00000000-0000-7000-8000-000000000000",
    "sendoraDeliveryId": "0" * 64,
    "data": {"sendoraSendId": "00000000-0000-7000-8000-000000000000", "sendoraDeliveryId": "0" * 64},
}
"""As large as ours."""


class Run(msgspec.Struct, frozen=True, rename="camel"):
    pushes: int
    accepted: int
    seconds: float
    cpu_us: int

    @property
    def cpu_us_per_push(self) -> float:
        return self.cpu_us / self.pushes


async def run(cluster: Cluster, devices: int, *, concurrent: int = 100, connections: int = 1) -> Run | None:
    """Push once to each of so many APNs tokens; None where the program cannot be had."""
    sender = go_program(SOURCE)
    if sender is None:
        return None
    with tempfile.TemporaryDirectory(prefix="sendora-apns2-") as name:
        folder = Path(name)
        apns = (await cluster.ask_simulator("GET", "/_/credentials"))["apns"]
        (folder / "key.p8").write_text(apns["p8Key"])
        (folder / "payload.json").write_text(json.dumps(PAYLOAD))
        tokens = await mint(cluster, "apns", [f"ok-peer{n}" for n in range(devices)])
        (folder / "tokens").write_text("".join(f"{token}\n" for token in tokens))
        said = await output(
            str(sender), "-host", cluster.simulator_url, "-ca", str(cluster.simulator_ca),
            "-key", str(folder / "key.p8"), "-key-id", apns["keyId"], "-team-id", apns["teamId"],
            "-topic", apns["bundleId"], "-tokens", str(folder / "tokens"),
            "-payload", str(folder / "payload.json"), "-concurrent", str(concurrent), "-connections", str(connections),
        )  # fmt: skip
    made = msgspec.json.decode(said, type=Run)
    if made.accepted != devices:
        raise RuntimeError(f"the peer had {made.accepted} of {devices} pushes accepted")
    return made
