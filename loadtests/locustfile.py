"""SDK sessions: a visitor identifies, registers a device, tracks alone and in batches.

Run by `make load` against a fresh embedded cluster, or by hand against any other:
`SENDORA_KEY=pk_... locust -f loadtests/locustfile.py -H https://api.example`.
"""

import os
import random
from typing import Any

from locust import FastHttpUser, between, task

from sendora.kernel.ids import new_id

SCREENS = ("home", "search", "product", "cart", "checkout")


class Visitor(FastHttpUser):
    """One device of one person; an SDK flushes every second or so."""

    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        self.user_id = f"visitor-{new_id()}"
        self.headers = {"x-api-key": os.environ["SENDORA_KEY"]}
        traits = {"plan": random.choice(("free", "pro")), "country": random.choice(("US", "DE", "FR"))}
        self._post("/identify", {"userId": self.user_id, "traits": traits, "eventId": str(new_id())})
        self._post(
            "/push/tokens",
            {"token": f"ok-{new_id()}", "platform": "android", "userId": self.user_id, "locale": "en-US"},
        )

    @task(6)
    def track(self) -> None:
        self._post("/events", self._event())

    @task(3)
    def flush(self) -> None:
        self._post("/events/batch", {"events": [self._event() for _ in range(random.randint(5, 40))]})

    @task(1)
    def identify_again(self) -> None:
        traits = {"visits": random.randint(1, 100)}
        self._post("/identify", {"userId": self.user_id, "traits": traits, "eventId": str(new_id())})

    def _event(self) -> dict[str, Any]:
        return {
            "eventType": "screen.viewed",
            "module": "analytics",
            "userId": self.user_id,
            "eventId": str(new_id()),
            "properties": {"screen": random.choice(SCREENS)},
        }

    def _post(self, path: str, body: dict[str, Any]) -> None:
        self.client.post(f"/api/v1{path}", json=body, headers=self.headers, name=path)
