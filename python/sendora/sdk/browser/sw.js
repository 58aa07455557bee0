/**
 * Sendora's service worker: shows what is pushed, says that it arrived, and what was done with it.
 *
 * Save one line as the file that you pass to webPush.subscribe(), at the root of your site:
 *
 *   importScripts("https://sendora.example/sdk/sw.js");
 *
 * Where to report and as whom stands in IndexedDB (`sendora`, `settings`, `config`: {api, publicKey, device}), which
 * webPush.subscribe() writes: the URL of a worker is part of its identity, so nothing is passed by that.
 */

(() => {
  const RETRIES = 3;
  const BACKOFF_MS = 1_000;
  const WAIT_MAX_MS = 10_000; // browsers end a worker that takes much longer
  const TRANSIENT = [429, 500, 502, 503, 504];
  const URLS = "sendoraActionUrls";

  self.addEventListener("install", () => self.skipWaiting());
  self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

  self.addEventListener("push", (event) => {
    const payload = read(event.data);
    event.waitUntil(Promise.all([show(payload), receipt(payload)]));
  });

  self.addEventListener("notificationclick", (event) => {
    const { action, notification } = event;
    const data = notification.data ?? {};
    notification.close();
    event.waitUntil(Promise.all([trackOpen(data, action), open(data[URLS]?.[action] ?? data.url)]));
  });

  self.addEventListener("pushsubscriptionchange", (event) => event.waitUntil(renew(event)));

  function read(message) {
    try {
      return message?.json() ?? {};
    } catch {
      return { title: message.text() };
    }
  }

  async function show({ title, body, icon, image, data, actions }) {
    if (!title) return; // silent: it only wakes
    const listed = actions ?? [];
    // A notification keeps of an action what it shows, so the URLs travel in its data.
    const urls = Object.fromEntries(listed.filter((one) => one.url).map((one) => [one.action, one.url]));
    await self.registration.showNotification(title, {
      body,
      icon,
      image,
      data: Object.keys(urls).length ? { ...data, [URLS]: urls } : data,
      actions: listed.map(({ action, title, icon }) => ({ action, title, icon })),
    });
  }

  function receipt({ data }) {
    if (!data?.sendoraSendId) return undefined;
    return report("/push/receipts", {
      sendId: data.sendoraSendId,
      deliveryId: data.sendoraDeliveryId,
      deliveredAt: new Date().toISOString(),
      eventId: uuid7(),
    });
  }

  /** The delivery's id stands for the send and says whose notification it was. */
  function trackOpen(data, action) {
    const sendId = data.sendoraDeliveryId ?? data.sendoraSendId;
    return sendId ? report("/push/track-open", { sendId, clickAction: action || "body" }) : undefined;
  }

  async function open(target) {
    let url = new URL("/", self.location.origin);
    try {
      const wanted = new URL(target || "/", self.location.origin);
      if (wanted.protocol === "https:" || wanted.protocol === "http:") url = wanted;
    } catch {
      // Not a URL: the site itself.
    }
    await self.clients.openWindow(url.href);
  }

  /** The browser has made another subscription: the new one takes the old one's place, which dies by itself. */
  async function renew(event) {
    const { device } = (await config()) ?? {};
    const subscription =
      event.newSubscription ??
      (event.oldSubscription && (await self.registration.pushManager.subscribe(event.oldSubscription.options)));
    if (!device || !subscription) return;
    const { endpoint, keys } = subscription.toJSON();
    await report("/push/tokens", { ...device, token: endpoint, subscription: { endpoint, keys } });
  }

  async function report(path, body) {
    const known = await config();
    if (!known) return;
    for (let n = 0; n <= RETRIES; n++) {
      const response = await fetch(known.api + path, {
        method: "POST",
        headers: { "x-api-key": known.publicKey, "content-type": "application/json" },
        body: JSON.stringify(body),
        credentials: "omit",
        keepalive: true,
      }).catch(() => null);
      if (response !== null && !TRANSIENT.includes(response.status)) return;
      const told = Number(response?.headers.get("retry-after") ?? 0) * 1_000 || 0;
      const wait = Math.max(told, BACKOFF_MS * 2 ** n * (0.8 + 0.4 * Math.random()));
      if (n === RETRIES || wait > WAIT_MAX_MS) return;
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }

  /** A worker says one thing at a time, so nothing need rise within a millisecond. */
  function uuid7() {
    const at = Date.now().toString(16).padStart(12, "0");
    return `${at.slice(0, 8)}-${at.slice(8)}-7${crypto.randomUUID().slice(15)}`;
  }

  function config() {
    return new Promise((resolve) => {
      const opening = indexedDB.open("sendora", 1);
      opening.onupgradeneeded = () => opening.result.createObjectStore("settings");
      opening.onerror = () => resolve(null);
      opening.onsuccess = () => {
        const reading = opening.result.transaction("settings").objectStore("settings").get("config");
        reading.onsuccess = () => resolve(reading.result ?? null);
        reading.onerror = () => resolve(null);
        reading.transaction.oncomplete = () => opening.result.close();
      };
    });
  }
})();
