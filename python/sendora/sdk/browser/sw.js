/*
 * Sendora's service worker: shows what is pushed, and tells the server that it has arrived and that it was opened.
 * A worker must come from the site itself, so the site's own /sw.js takes it over:
 *
 *     importScripts("https://sendora.example.com/sdk/sw.js");
 *
 * Where to tell it stands in the address that `webPush.subscribe("/sw.js")` registers the worker by
 * (/sw.js?sendoraApi=...&sendoraKey=pk_...). The browser keeps that address with the registration and starts the worker
 * by it, for a push that comes weeks later and with no page open; nothing has to be stored, or can be lost.
 */
(() => {
  const RETRIES = 3;
  const BACKOFF_MS = 1_000;
  const JITTER = 0.2;
  /** A worker that waits for longer is ended by the browser. */
  const PAUSE_MAX_MS = 10_000;

  const said = new URLSearchParams(self.location.search);
  const api = said.get("sendoraApi");
  const key = said.get("sendoraKey");

  self.addEventListener("push", (event) => {
    const payload = read(event.data);
    event.waitUntil(Promise.all([show(payload), receipt(payload)]));
  });

  self.addEventListener("notificationclick", (event) => {
    event.notification.close();
    const data = event.notification.data ?? {};
    const sendId = data.sendoraDeliveryId ?? data.sendoraSendId;
    const opened = sendId && tell("/push/track-open", { sendId, clickAction: event.action || "body" });
    const url = (event.action && data.sendoraUrls?.[event.action]) || data.url;
    event.waitUntil(Promise.all([opened, self.clients.openWindow(page(url))]));
  });

  /** The browser has replaced the subscription: the new one is registered as the old one was. */
  self.addEventListener("pushsubscriptionchange", (event) => {
    event.waitUntil(renew(event));
  });

  function read(data) {
    try {
      return data?.json() ?? {};
    } catch {
      return { title: data.text() };
    }
  }

  async function show({ title, body, icon, image, data, actions, silent }) {
    if (silent && title === undefined) {
      // The browser may show a sentence of its own when a site does this often.
      return;
    }
    const buttons = (actions ?? []).map((one) => ({
      action: one.action ?? one.id,
      title: one.title,
      // A name of one of Apple's symbols is no address.
      icon: /^(https?:\/)?\//.test(one.icon ?? "") ? one.icon : undefined,
    }));
    const links = (actions ?? []).filter((one) => one.url);
    const sendoraUrls = Object.fromEntries(links.map((one) => [one.action ?? one.id, one.url]));
    await self.registration.showNotification(title ?? "", {
      body,
      icon,
      image,
      // A notification does not keep the addresses of its buttons.
      data: { ...data, sendoraUrls },
      actions: buttons,
    });
  }

  async function receipt({ data, sendoraSendId, sendoraDeliveryId }) {
    const sendId = sendoraSendId ?? data?.sendoraSendId;
    const deliveryId = sendoraDeliveryId ?? data?.sendoraDeliveryId;
    if (sendId) {
      const deliveredAt = new Date().toISOString();
      await tell("/push/receipts", { sendId, deliveryId, deliveredAt, eventId: uuid7() });
    }
  }

  async function renew(event) {
    const cache = await caches.open("sendora");
    const name = `/sendora-device?key=${key}`;
    const kept = await cache.match(name);
    if (!kept) {
      // Nobody is subscribed any more.
      return;
    }
    const subscription = event.newSubscription ?? (await subscribe(event.oldSubscription));
    const { endpoint, keys } = subscription.toJSON();
    const body = { ...(await kept.json()), token: endpoint, subscription: { endpoint, keys } };
    await cache.put(name, new Response(JSON.stringify(body)));
    await tell("/push/tokens", body);
  }

  async function subscribe(before) {
    // Not every browser says what there was before.
    const applicationServerKey = before?.options.applicationServerKey ?? (await serverKey());
    return self.registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey });
  }

  async function serverKey() {
    const response = await fetch(`${api}/api/v1/push/vapid`, { headers: { "x-api-key": key }, credentials: "omit" });
    return (await response.json()).data.publicKey;
  }

  /** An address that a browser can open: a link into an app, meant for phones, is none. */
  function page(url) {
    const home = `${self.location.origin}/`;
    try {
      const found = new URL(url || home, home);
      return /^https?:$/.test(found.protocol) ? found.href : home;
    } catch {
      return home;
    }
  }

  async function tell(path, body) {
    if (!api || !key) {
      return;
    }
    for (let failures = 0; failures <= RETRIES; failures += 1) {
      const pause = await attempt(path, body);
      if (pause === null) {
        return;
      }
      const jitter = 1 - JITTER + 2 * JITTER * Math.random();
      await new Promise((resolve) => {
        setTimeout(resolve, Math.min(Math.max(BACKOFF_MS * 2 ** failures * jitter, pause), PAUSE_MAX_MS));
      });
    }
  }

  /** Null when the server has answered for it, else how long it wants to be left alone (milliseconds). */
  async function attempt(path, body) {
    try {
      const response = await fetch(`${api}/api/v1${path}`, {
        method: "POST",
        headers: { "x-api-key": key, "content-type": "application/json" },
        body: JSON.stringify(body),
        credentials: "omit",
        keepalive: true,
      });
      if (response.status !== 429 && response.status < 500) {
        return null;
      }
      return (Number(response.headers.get("retry-after")) || 0) * 1_000;
    } catch {
      return 0;
    }
  }

  function uuid7() {
    const time = Date.now().toString(16).padStart(12, "0");
    return `${time.slice(0, 8)}-${time.slice(8)}-7${crypto.randomUUID().slice(15)}`;
  }
})();
