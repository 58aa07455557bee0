/**
 * Sendora for web pages: events, identity and Web Push. Without dependencies, as it stands here.
 *
 *   import { init } from "https://sendora.example/sdk/sendora.js";
 *   const sendora = init({ publicKey: "pk_prod_..." });
 *
 * What is said goes into a queue in localStorage first and leaves it when the server has answered, so that a closed tab
 * or a lost connection costs nothing. The tabs of an origin share the queue, and one of them at a time sends. Whatever
 * may be sent twice carries an event id, by which the server knows it again.
 */

/** What one request may hold. */
const BATCH_EVENTS = 1_000;
const BATCH_BYTES = 1_048_576 - 1_024;
const EVENT_BYTES = 262_144;

/** Entries that wait at most; then the oldest goes, and `onError` hears of it. */
const QUEUE_MAX = 1_000;

/** Events wait so long for company, and no longer once there are so many. */
const FLUSH_MS = 5_000;
const FLUSH_AT = 100;

/** Browsers let a page that goes away leave 64 KiB behind. */
const PARTING_BYTES = 60_000;

const BACKOFF_MS = 1_000;
const BACKOFF_MAX_MS = 60_000;
const JITTER = 0.2;
const RETRIES = 3;
const TRANSIENT = [0, 429, 500, 502, 503, 504];
const TIMEOUT_MS = 30_000;
const TIMER_MAX_MS = 86_400_000;

const SESSION_IDLE_MS = 30 * 60_000;

const QUEUE = "queue:";
const encoder = new TextEncoder();
const instances = new Map();

/** What went wrong, in the server's words where it said any. `status` 0: there was no answer. */
export class SendoraError extends Error {
  constructor(code, message, { status = 0, details = {}, requestId = null, retryAfterMs = 0 } = {}) {
    super(message);
    this.name = "SendoraError";
    Object.assign(this, { code, status, details, requestId, retryAfterMs });
  }

  get transient() {
    return this.code === "NO_ANSWER" || (this.status > 0 && TRANSIENT.includes(this.status));
  }
}

/** The one client of this page for a key; asked for again, the same one. */
export function init(options) {
  const { publicKey, baseUrl } = options;
  if (typeof publicKey !== "string" || !publicKey.startsWith("pk_")) {
    throw new SendoraError(
      "PUBLIC_KEY_REQUIRED",
      "A page takes a public key (pk_...). A secret key must stay on your servers: whoever can read the page could use it.",
    );
  }
  const api = new URL("/api/v1", baseUrl ?? import.meta.url).href;
  const name = `${api} ${publicKey}`;
  if (!instances.has(name)) instances.set(name, new Sendora(api, options));
  return instances.get(name);
}

class Sendora {
  constructor(api, { publicKey, autoTrack, autotrack, appVersion, onError }) {
    this.api = api;
    this.publicKey = publicKey;
    this.appVersion = appVersion;
    this.autoTrack = autoTrack ?? autotrack ?? true;
    this.onError = onError ?? ((error) => console.warn("sendora:", error));
    this.store = new Store(`sendora:${publicKey}:`);
    this.timer = null;
    this.flushing = null;
    this.failures = 0;
    this.halted = null;
    this.batchMax = BATCH_EVENTS;
    this.parting = new Set();
    this.awaited = new Map();
    this.webPush = new WebPush(this);
    this.push = { trackOpen: (sendId, clickAction) => this.#trackOpen(sendId, clickAction) };
    this.#listen();
    if (this.autoTrack) this.#watch();
    if (this.#queued().length) this.#schedule(FLUSH_MS);
    this.webPush.renew().catch(this.onError);
  }

  get deviceId() {
    return this.#kept("deviceId");
  }

  get anonymousId() {
    return this.#kept("anonymousId");
  }

  get userId() {
    return this.store.get("userId");
  }

  /** The session goes on while something happens; after half an hour of nothing the next event opens another. */
  get sessionId() {
    const now = Date.now();
    const open = this.store.get("session");
    const goesOn = open !== null && now - open.at < SESSION_IDLE_MS;
    const session = { id: goesOn ? open.id : uuid7(), at: now };
    this.store.set("session", session);
    if (!goesOn && this.autoTrack) this.track("session.started");
    return session.id;
  }

  /** Says that something happened, and gives the event's id. It is sent with others, soon. */
  track(eventType, properties = {}, { module = "analytics", timestamp } = {}) {
    if (typeof eventType !== "string" || eventType === "") throw new TypeError("track() takes the name of the event");
    const sessionId = this.sessionId;
    const eventId = uuid7();
    const event = {
      eventType,
      module,
      properties,
      eventId,
      timestamp: new Date(timestamp ?? Date.now()).toISOString(),
      userId: this.userId ?? undefined,
      anonymousId: this.anonymousId,
      deviceId: this.deviceId,
      sessionId,
    };
    const size = encoder.encode(JSON.stringify(event)).length;
    if (size > EVENT_BYTES) {
      this.onError(new SendoraError("EVENT_TOO_LARGE", `${eventType} has ${size} bytes, an event at most ${EVENT_BYTES}`));
      return eventId;
    }
    this.#keep(eventId, { event });
    if (this.#queued().length >= FLUSH_AT && this.failures === 0) this.flush();
    else this.#schedule(FLUSH_MS);
    return eventId;
  }

  /** A page view, with the page's name where it has one. */
  page(name, properties = {}) {
    return this.track("page_viewed", { ...(name === undefined ? {} : { name }), ...place(), ...properties });
  }

  /**
   * Who this is: identify("u_1", {plan: "pro"}) or identify({userId, email, traits}). What was done anonymously becomes
   * this person's, and so does the device. Gives {id, externalId}, or null when the server is out of reach: then it is
   * told later.
   */
  async identify(who, traits) {
    const said = typeof who === "string" ? { userId: who, traits } : { ...who };
    if (typeof said.userId !== "string" || said.userId === "") throw new TypeError("identify() takes a userId");
    // Somebody else at the same device: what the one did anonymously is not the other's.
    if (this.userId !== null && this.userId !== said.userId) this.#forget();
    const body = {
      userId: said.userId,
      email: said.email,
      traits: said.traits,
      anonymousId: this.anonymousId,
      locale: navigator.language,
      timezone: timezone(),
      eventId: uuid7(),
      timestamp: new Date().toISOString(),
    };
    this.store.set("userId", said.userId);
    const profile = await this.deliver("POST", "/identify", body);
    await this.webPush.renew({ login: true });
    return profile;
  }

  /** Nobody is signed in any more: this browser gets no push until the next login, and a new anonymous identity. */
  async reset() {
    // A registration that still waits would bring the device back to whoever has left.
    for (const name of this.#queued()) if (this.store.get(name)?.path === "/push/tokens") this.store.remove(name);
    this.#forget();
    await this.webPush.signOut();
  }

  /** As reset(). */
  logout() {
    return this.reset();
  }

  /** Sends what waits. Resolves when it is sent, or has to wait longer; never rejects. */
  flush() {
    this.flushing ??= this.#alone(() => this.#drain())
      .catch(this.onError)
      .finally(() => {
        this.flushing = null;
        if (this.#queued().length && !this.halted) this.#schedule(FLUSH_MS);
      });
    return this.flushing;
  }

  /** Puts a call into the queue and sends it in its turn; null when it has to wait. */
  async deliver(method, path, body) {
    if (this.halted) throw this.halted;
    const name = uuid7();
    const answered = new Promise((resolve, reject) => this.awaited.set(QUEUE + name, { resolve, reject }));
    this.#keep(name, { method, path, body });
    // Twice: a drain that was just about to end has not seen it.
    const waited = this.flush().then(() => (this.awaited.has(QUEUE + name) && !this.failures ? this.flush() : null));
    try {
      return await Promise.race([answered, waited.then(() => null)]);
    } finally {
      this.awaited.delete(QUEUE + name);
    }
  }

  /** One call with its retries; gives `data`, or throws SendoraError. */
  async call(method, path, body, init = {}) {
    for (let n = 0; ; n++) {
      try {
        return await this.#once(method, path, body, init);
      } catch (error) {
        if (!error.transient || n >= RETRIES || error.retryAfterMs > BACKOFF_MAX_MS || !navigator.onLine) throw error;
        await sleep(Math.max(error.retryAfterMs, backoff(n)));
      }
    }
  }

  async #once(method, path, body, init) {
    let response;
    try {
      response = await fetch(this.api + path, {
        method,
        headers: { "x-api-key": this.publicKey, ...(body === undefined ? {} : { "content-type": "application/json" }) },
        body: body === undefined || typeof body === "string" ? body : JSON.stringify(body),
        credentials: "omit",
        signal: AbortSignal.timeout(TIMEOUT_MS),
        ...init,
      });
    } catch (error) {
      throw new SendoraError("NO_ANSWER", `${method} ${path}: ${error.message}`);
    }
    const envelope = await response.json().catch(() => ({}));
    if (response.ok) return envelope.data;
    const { code = "UNKNOWN", message = response.statusText, details } = envelope.error ?? {};
    throw new SendoraError(code, message, {
      status: response.status,
      details,
      requestId: response.headers.get("x-request-id"),
      retryAfterMs: Number(response.headers.get("retry-after") ?? 0) * 1_000 || 0,
    });
  }

  async #trackOpen(sendId, clickAction) {
    await this.deliver("POST", "/push/track-open", { sendId, clickAction });
  }

  // -- the queue

  #queued() {
    return this.store.names(QUEUE);
  }

  /** Names are UUIDv7, so the queue is in the order in which things were said. */
  #keep(name, entry) {
    const queued = this.#queued();
    while (queued.length >= QUEUE_MAX) this.#drop(queued.shift());
    while (!this.store.set(QUEUE + name, entry) && queued.length) this.#drop(queued.shift());
  }

  #drop(name) {
    this.store.remove(name);
    this.onError(new SendoraError("QUEUE_FULL", "The oldest of what waits was given up."));
  }

  #schedule(ms) {
    if (this.timer !== null || this.halted) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.flush();
    }, Math.min(ms, TIMER_MAX_MS));
  }

  /** Only in one tab at a time. Where there are no locks, two may send the same, which the server knows again. */
  async #alone(work) {
    if (!navigator.locks) return work();
    return navigator.locks.request(this.store.prefix, { ifAvailable: true }, (lock) => (lock ? work() : undefined));
  }

  async #drain() {
    for (;;) {
      const names = this.#queued().filter((name) => !this.parting.has(name));
      if (!names.length || this.halted) return;
      const turn = this.#turn(names);
      try {
        const answer = await this.call(turn.method, turn.path, turn.body);
        this.failures = 0;
        this.#done(turn, answer);
      } catch (error) {
        if (!(error instanceof SendoraError)) throw error;
        if (error.transient) {
          this.failures += 1;
          clearTimeout(this.timer);
          this.timer = null;
          this.#schedule(Math.max(error.retryAfterMs, backoff(RETRIES + this.failures)));
          return;
        }
        if (error.status === 413 && turn.names.length > 1) {
          this.batchMax = Math.ceil(turn.names.length / 2);
          continue;
        }
        if (error.status === 401) {
          // Nothing that this page could say would be heard. What waits is kept for a page with a better key.
          this.halted = error;
          this.onError(error);
          for (const { reject } of this.awaited.values()) reject(error);
          return;
        }
        this.#refused(turn, error);
      }
    }
  }

  /** What the next request says: a call, or all events until the next call, as far as they fit. */
  #turn(names, bytesMax = BATCH_BYTES) {
    const events = [];
    let bytes = 0;
    for (const name of names) {
      const entry = this.store.get(name);
      if (!entry?.event) {
        if (!events.length) return { names: [name], ...entry, path: entry?.path ?? "/", method: entry?.method ?? "POST" };
        break;
      }
      const text = JSON.stringify(entry.event);
      bytes += encoder.encode(text).length + 1;
      if (events.length && (events.length >= this.batchMax || bytes > bytesMax)) break;
      events.push(text);
    }
    return {
      names: names.slice(0, events.length),
      method: "POST",
      path: "/events/batch",
      body: `{"events":[${events.join()}]}`,
    };
  }

  #done(turn, answer) {
    for (const name of turn.names) {
      this.store.remove(name);
      this.awaited.get(name)?.resolve(answer ?? null);
    }
    for (const { index, fieldErrors } of answer?.errors ?? []) {
      this.onError(new SendoraError("VALIDATION_ERROR", `Event ${index} was refused`, { status: 200, details: { fieldErrors } }));
    }
  }

  #refused(turn, error) {
    for (const name of turn.names) {
      this.store.remove(name);
      this.awaited.get(name)?.reject(error);
    }
    if (!turn.names.some((name) => this.awaited.has(name))) this.onError(error);
  }

  /** The page may be gone in a moment. Events stay in the queue until they are answered: the next page would repeat them. */
  #part() {
    const names = this.#queued().filter((name) => !this.parting.has(name) && this.store.get(name)?.event);
    if (!names.length || this.halted) return;
    const turn = this.#turn(names, PARTING_BYTES);
    if (encoder.encode(turn.body).length > PARTING_BYTES + 1_024) return;
    turn.names.forEach((name) => this.parting.add(name));
    this.#once(turn.method, turn.path, turn.body, { keepalive: true })
      .then((answer) => this.#done(turn, answer))
      .catch(() => this.#schedule(FLUSH_MS))
      .finally(() => turn.names.forEach((name) => this.parting.delete(name)));
  }

  // -- the page

  #listen() {
    addEventListener("online", () => this.flush());
    addEventListener("pagehide", () => this.#part());
    document.addEventListener("visibilitychange", () => {
      const hidden = document.visibilityState === "hidden";
      if (this.autoTrack) this.track(hidden ? "app.backgrounded" : "app.foregrounded");
      if (hidden) this.#part();
    });
  }

  #watch() {
    // Asked for before anything else is said, so that a new session opens with its own event.
    void this.sessionId;
    let seen = null;
    const view = () => {
      const now = location.pathname + location.search;
      if (now === seen) return;
      seen = now;
      this.track("page.viewed", place());
    };
    view();
    const pushState = history.pushState;
    history.pushState = function (...given) {
      pushState.apply(this, given);
      view();
    };
    addEventListener("popstate", view);
    addEventListener(
      "click",
      (event) => {
        const link = event.composedPath().find((node) => node instanceof HTMLAnchorElement && node.href);
        if (link && link.hostname === location.hostname) this.track("link.clicked", { url: bare(link.href) });
      },
      { capture: true },
    );
  }

  // -- who this is

  #kept(name) {
    const known = this.store.get(name);
    if (known !== null) return known;
    const made = uuid7();
    this.store.set(name, made);
    return made;
  }

  #forget() {
    for (const name of ["userId", "anonymousId", "session"]) this.store.remove(name);
  }
}

/**
 * Push to this browser. The page asks for permission itself, when its reader expects it: nothing here ever prompts.
 *
 * The worker finds in IndexedDB, which it shares with the page, where to report and as whom.
 */
class WebPush {
  constructor(sendora) {
    this.sendora = sendora;
  }

  get #known() {
    return this.sendora.store.get("push");
  }

  /** Registers the worker at this path and this browser as a device; gives {id, token, isActive, ...} or null if later. */
  async subscribe(path = "/sw.js") {
    if (!("serviceWorker" in navigator) || !("PushManager" in globalThis)) {
      throw new SendoraError("PUSH_UNSUPPORTED", "This browser has no Web Push, or the page is not served over HTTPS.");
    }
    if (Notification.permission !== "granted") {
      throw new SendoraError(
        "PERMISSION_REQUIRED",
        "Ask first: call Notification.requestPermission() when the user has clicked on something that says why.",
      );
    }
    const registration = await navigator.serviceWorker.register(path);
    const [{ publicKey }] = await Promise.all([this.sendora.call("GET", "/push/vapid"), active(registration)]);
    const key = fromBase64url(publicKey);
    let subscription = await registration.pushManager.getSubscription();
    if (subscription && !equal(new Uint8Array(subscription.options.applicationServerKey ?? 0), key)) {
      await subscription.unsubscribe();
      subscription = null;
    }
    subscription ??= await registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
    return this.#register(registration, subscription);
  }

  /** This browser gets no push any more. */
  async unsubscribe() {
    const subscription = await this.#subscription();
    await this.signOut();
    this.sendora.store.remove("push");
    await subscription?.unsubscribe();
  }

  /** Tells the server of a subscription that has changed, or changed hands; a new one simply takes the old one's place. */
  async renew({ login = false } = {}) {
    const known = this.#known;
    if (known === null) return;
    const registration = await navigator.serviceWorker?.getRegistration(known.scope);
    const subscription = await registration?.pushManager.getSubscription();
    // After a logout only a login brings the device back.
    if (subscription && (login || (known.id !== null && subscription.endpoint !== known.endpoint))) {
      await this.#register(registration, subscription);
    }
  }

  /** The device stays subscribed and is not sent to. */
  async signOut() {
    const known = this.#known;
    if (known === null || known.id === null) return;
    this.sendora.store.set("push", { ...known, id: null });
    await this.sendora.deliver("DELETE", `/push/tokens/${known.id}`).catch((error) => {
      if (error.status !== 404) throw error;
    });
  }

  async #subscription() {
    const registration = this.#known && (await navigator.serviceWorker?.getRegistration(this.#known.scope));
    return registration?.pushManager.getSubscription();
  }

  async #register(registration, subscription) {
    const { sendora } = this;
    const { endpoint, keys } = subscription.toJSON();
    const device = {
      platform: "web",
      userId: sendora.userId ?? sendora.anonymousId,
      locale: navigator.language,
      timezone: timezone(),
      appVersion: sendora.appVersion,
    };
    await configure({ api: sendora.api, publicKey: sendora.publicKey, device });
    const said = { ...device, token: endpoint, subscription: { endpoint, keys } };
    // Whoever has just signed in wants this device back, whatever became of it when somebody signed out.
    if (sendora.userId !== null) said.reactivate = true;
    const known = { scope: registration.scope, endpoint, id: null };
    sendora.store.set("push", known);
    const token = await sendora.deliver("POST", "/push/tokens", said);
    if (token) sendora.store.set("push", { ...known, id: token.id });
    // Somebody signed out while the server was answering.
    if (token && device.userId !== (sendora.userId ?? sendora.anonymousId)) await this.signOut();
    return token;
  }
}

/** localStorage under a prefix; what it does not take (it is full, or forbidden) lives as long as the page. */
class Store {
  constructor(prefix) {
    this.prefix = prefix;
    this.memory = new Map();
    try {
      this.disk = globalThis.localStorage;
    } catch {
      this.disk = null;
    }
  }

  get(name) {
    const text = this.memory.get(name) ?? this.disk?.getItem(this.prefix + name) ?? null;
    try {
      return JSON.parse(text);
    } catch {
      return null;
    }
  }

  /** False when it did not fit. */
  set(name, value) {
    const text = JSON.stringify(value);
    try {
      this.disk.setItem(this.prefix + name, text);
      this.memory.delete(name);
      return true;
    } catch {
      this.memory.set(name, text);
      return this.disk === null;
    }
  }

  remove(name) {
    this.memory.delete(name);
    this.disk?.removeItem(this.prefix + name);
  }

  names(start) {
    const found = new Set([...this.memory.keys()].filter((name) => name.startsWith(start)));
    const whole = this.prefix + start;
    for (const key of Object.keys(this.disk ?? {})) if (key.startsWith(whole)) found.add(key.slice(this.prefix.length));
    return [...found].sort();
  }
}

/** What the service worker reads; see sw.js. */
function configure(config) {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("sendora", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("settings");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
      const writing = opening.result.transaction("settings", "readwrite");
      writing.objectStore("settings").put(config, "config");
      writing.oncomplete = () => resolve(opening.result.close());
      writing.onerror = () => reject(writing.error);
    };
  });
}

function active(registration) {
  if (registration.active) return Promise.resolve();
  const worker = registration.installing ?? registration.waiting;
  return new Promise((resolve, reject) => {
    worker.addEventListener("statechange", () => {
      if (worker.state === "activated") resolve();
      if (worker.state === "redundant") reject(new SendoraError("WORKER_FAILED", "The service worker did not install."));
    });
  });
}

let lastMs = 0;
let sequence = 0;

/** UUIDv7, rising within a millisecond too: the queue is sorted by it. */
export function uuid7() {
  const now = Date.now();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  if (now > lastMs) {
    lastMs = now;
    sequence = ((bytes[6] & 0x07) << 8) | bytes[7];
  } else if (++sequence > 0xfff) {
    lastMs += 1;
    sequence = 0;
  }
  for (let i = 0, rest = lastMs; i < 6; i++, rest = Math.floor(rest / 256)) bytes[5 - i] = rest % 256;
  bytes[6] = 0x70 | (sequence >> 8);
  bytes[7] = sequence & 0xff;
  bytes[8] = 0x80 | (bytes[8] & 0x3f);
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Doubling from a second to a minute, give or take a fifth, so that not all come back at once. */
function backoff(n) {
  const jitter = 1 + JITTER * (2 * Math.random() - 1);
  return Math.min(BACKOFF_MS * 2 ** Math.min(n, 16), BACKOFF_MAX_MS) * jitter;
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

function timezone() {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}

/** Where the reader is. */
function place() {
  const from = document.referrer;
  return { path: location.pathname, url: bare(location.href), title: document.title, ...(from ? { referrer: bare(from) } : {}) };
}

/** Without query and fragment: sign-in links carry secrets there. */
function bare(href) {
  const url = new URL(href);
  return url.origin + url.pathname;
}

function fromBase64url(text) {
  return Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
}

function equal(one, other) {
  return one.length === other.length && one.every((byte, index) => byte === other[index]);
}
