"""About 30,000 devices over the three transports, whose tokens say what the simulator will answer.

Everybody has a device, every fourth customer two, every fortieth three. Some tokens are gone, some are throttled at the
first try, flaky for two, or slow; the rest is taken. Nothing is random: the customer's number decides.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from sendora.demo.purchases import Customer

PLATFORMS: Final = {"apns": "ios", "fcm": "android", "webpush": "web"}
LOCALES: Final = ("en-US", "de-DE", "fr-FR", "de", "es-MX")
OUTCOMES: Final = {
    3: "gone",
    16: "gone",
    29: "gone",
    17: "throttle",
    18: "throttle",
    42: "flaky",
    59: "flaky",
    63: "slow",
}
"""By the device's number mod 100; everything else is `ok`."""


class Device(msgspec.Struct, frozen=True):
    transport: str
    wish: str
    """The token in the simulator's grammar, before it is minted into a real-looking one."""
    user_id: str
    locale: str


def devices(customers: Iterable[Customer]) -> Iterator[Device]:
    number = 0
    for customer in customers:
        for _ in range(1 + (customer.id % 4 == 0) + (customer.id % 40 == 0)):
            yield Device(
                transport="webpush" if number % 10 == 9 else ("fcm", "apns")[number % 2],
                wish=f"{OUTCOMES.get(number % 100, 'ok')}-{number:06}",
                user_id=str(customer.id),
                locale=LOCALES[number % len(LOCALES)],
            )
            number += 1


def registration(device: Device, minted: Any) -> dict[str, Any]:
    """The body of `POST /push/tokens` for a device and what the simulator minted for it."""
    address = (
        {"token": minted["endpoint"], "subscription": minted} if device.transport == "webpush" else {"token": minted}
    )
    return {
        **address,
        "platform": PLATFORMS[device.transport],
        "userId": device.user_id,
        "locale": device.locale,
        "appVersion": "1.0.0",
    }
