"""What an operator sets up: delivery policies and provider credentials."""

import asyncio
from typing import Final

import msgspec

from sendora.kernel.errors import Conflict, Forbidden, NotFound, Unavailable, ValidationFailed
from sendora.kernel.http import Principal, delete, get, patch, put
from sendora.kernel.life import Kernel
from sendora.kernel.outbound import BlockedAddress
from sendora.modules import orgs
from sendora.modules.push import credentials
from sendora.modules.push.model import providers as model
from sendora.modules.push.model.policies import Policies, PoliciesPatch, patched
from sendora.modules.push.model.providers import (
    ApnsIn,
    Credential,
    FcmIn,
    Provider,
    Providers,
    Removed,
    Vapid,
    VapidShown,
)
from sendora.modules.push.store import content, providers

NAMES: Final[dict[str, Provider]] = {"apns": "apns", "fcm": "fcm", "vapid": "vapid"}


@get("/push/settings", scope="push:read", operation="getPushSettings", summary="Get the delivery policies")
async def get_settings(kernel: Kernel, principal: Principal) -> Policies:
    """Of the organisation: quiet hours, frequency caps, the default time zone (B108-B112)."""
    return await content.policies(kernel.db, principal.org)


@patch(
    "/push/settings",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="updatePushSettings",
    summary="Change the delivery policies",
)
async def update_settings(kernel: Kernel, principal: Principal, data: PoliciesPatch) -> Policies:
    """Only the fields that are given; null switches off (B113)."""
    async with content.changing_policies(kernel.db, principal.org) as (connection, old):
        new = patched(old, data)
        await content.set_policies(connection, principal.org, new)
        await orgs.audit(connection, principal, "push_settings.changed", "settings:push", msgspec.to_builtins(data))
    return new


@get(
    "/push/vapid",
    scope=None,
    public_key=True,
    operation="getVapidKey",
    summary="Get the key that browsers subscribe with",
)
async def get_vapid(kernel: Kernel, principal: Principal) -> VapidShown:
    """The public half of the organisation's key pair, made when it is first needed (B090, C42)."""
    match (await credentials.vapid(kernel, principal.org)).rest:
        case Credential(secret=Vapid() as secret):
            return VapidShown(public_key=secret.public_key)
    raise Unavailable(message="The organisation's key pair cannot be opened right now.")


@get(
    "/push/providers",
    scope="push:read",
    role="ADMIN",
    raises=(Forbidden,),
    operation="getPushProviders",
    summary="See which providers are configured",
)
async def get_providers(kernel: Kernel, principal: Principal) -> Providers:
    """Never a key. `apps` are those that have credentials of their own."""
    return await providers.listed(kernel.db, principal.org, principal.project)


@put(
    "/push/providers/apns",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden, Conflict),
    operation="putApns",
    summary="Store the APNs credential",
)
async def put_apns(kernel: Kernel, principal: Principal, data: ApnsIn) -> Providers:
    """A token key (.p8) with its key and team id, or a certificate with its key (B089); the first bundle id is the
    default topic. Without `environment` it serves both of Apple's, and a device that says the wrong one is found.

    With `app` it is that app's own, and serves the devices that registered with one of its bundle ids; all others are
    the project's. An app's own comes first where both name a bundle id; two apps cannot name the same (409)."""
    secret = await asyncio.to_thread(model.apns, data, principal.project, kernel.clock.now())
    await credentials.put(kernel, principal, data.app or "", secret)
    return await providers.listed(kernel.db, principal.org, principal.project)


@put(
    "/push/providers/fcm",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden, Conflict),
    operation="putFcm",
    summary="Store the FCM credential",
)
async def put_fcm(kernel: Kernel, principal: Principal, data: FcmIn) -> Providers:
    """The service account's JSON file; the project id is read from it (B091). With `app` and `bundleIds` (its package
    names) it is that app's own, as with APNs."""
    secret = await asyncio.to_thread(model.fcm, data, principal.project)
    try:
        kernel.outbound.allow_token_endpoint(secret.token_uri)
    except BlockedAddress:
        raise ValidationFailed({"serviceAccount.token_uri": ["Not a known token endpoint"]}) from None
    await credentials.put(kernel, principal, data.app or "", secret)
    return await providers.listed(kernel.db, principal.org, principal.project)


@delete(
    "/push/providers/{provider}",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="deletePushProvider",
    summary="Remove a credential",
)
async def delete_provider(kernel: Kernel, principal: Principal, provider: str, app: str | None = None) -> Removed:
    """Recipients of this transport are rejected from then on (C43); those of an app whose own credential is removed
    (`app`) are the project's again. A VAPID key pair that is removed is made anew when it is needed, and every browser
    has to subscribe again."""
    name = NAMES.get(provider)
    if name is None:
        raise NotFound("Provider")
    return await _remove(kernel, principal, name, app)


# A path that is written out wins over a parameter, whatever the method: where PUT stands DELETE must stand too.
@delete(
    "/push/providers/apns",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="deleteApns",
    summary="Remove the APNs credential",
)
async def delete_apns(kernel: Kernel, principal: Principal, app: str | None = None) -> Removed:
    return await _remove(kernel, principal, "apns", app)


@delete(
    "/push/providers/fcm",
    scope="push:write",
    role="ADMIN",
    raises=(Forbidden,),
    operation="deleteFcm",
    summary="Remove the FCM credential",
)
async def delete_fcm(kernel: Kernel, principal: Principal, app: str | None = None) -> Removed:
    return await _remove(kernel, principal, "fcm", app)


async def _remove(kernel: Kernel, principal: Principal, name: Provider, app: str | None) -> Removed:
    named = app is None or model.APP.fullmatch(app) is not None
    if not named or not await credentials.remove(kernel, principal, name, app or ""):
        raise NotFound("Provider")
    return Removed(provider=name, app=app, removed=True)


ROUTES = (
    get_settings,
    update_settings,
    get_vapid,
    get_providers,
    put_apns,
    put_fcm,
    delete_apns,
    delete_fcm,
    delete_provider,
)
