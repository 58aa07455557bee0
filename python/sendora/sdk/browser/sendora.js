/*
 * Sendora for browsers: who somebody is, what they do, and where they can be reached. An ES module without
 * dependencies; sendora.d.ts says what everything takes and gives.
 *
 *     import { init } from "https://sendora.example.com/sdk/sendora.js";
 *     const sendora = init({ publicKey: "pk_prod_..." });
 *     sendora.track("checkout_completed", { amount: 49.99 });
 *
 * Every call of the API is first an entry of the queue, which lies in localStorage: it survives a reload, all tabs of
 * a site share it, and one of them sends at a time. An entry leaves the queue when the server has answered for it, so
 * one may be sent twice; its eventId and timestamp stay the same, and the server counts it once.
 */

const FLUSH_MS = 2_000;
/** As many events are sent without waiting for the time to pass. */
const FLUSH_AT = 50;

/** What the server takes in one request, less the brackets around the events. */
const BATCH_EVENTS = 1_000;
const BATCH_BYTES = 1024 * 1024 - 64;
const EVENT_BYTES = 256 * 1024;
/** Browsers give 64 KiB to all requests together that outlive their page. */
const KEEPALIVE_BYTES = 60 * 1024;

/** An origin has 5 MiB of localStorage, which belongs to the site. When the queue is full the oldest entries go. */
const QUEUE_ENTRIES = 2_000;
const QUEUE_CHARACTERS = 1024 * 1024;

/** How often a request is repeated by itself. Then it waits for the next event, the next page, or the network. */
const RETRIES = 3;
const BACKOFF_MS = 1_000;
const BACKOFF_MAX_MS = 60_000;
const JITTER = 0.2;
/** What a backoff never is. */
const LONG_MS = BACKOFF_MAX_MS * (1 + JITTER);
/** A longer Retry-After is taken for this. */
const PAUSE_MAX_MS = 24 * 3_600_000;
const REQUEST_MS = 30_000;

const SESSION_IDLE_MS = 30 * 60_000;

export class SendoraError extends Error {
  constructor(code, message, status) {
    super(message);
    this.name = "SendoraError";
    this.code = code;
    this.status = status;
  }
}

const instances = new Map();

/** The instance of a key: the same one, however often a page asks. */
export function init(options) {
  const key = options?.publicKey;
  if (typeof key === "string" && key.startsWith("sk_")) {
    throw new SendoraError("SECRET_KEY", "A secret key must never reach a browser: revoke it, and use the pk_ key.");
  }
  if (typeof key !== "string" || !/^pk_[\x21-\x7e]+$/.test(key)) {
    throw new SendoraError("PUBLIC_KEY_REQUIRED", "init({ publicKey: 'pk_...' }) is required.");
  }
  let instance = instances.get(key);
  if (!instance) {
    instance = new Sendora(key, options);
    instances.set(key, instance);
  }
  return instance;
}

class Sendora {
  #key;
  #api;
  #auto;
  #store;
  #queue;
  #waiting = new Map();
  #failures = 0;
  #gaveUp = false;
  #timer;
  #sending;
  #batchMax = BATCH_EVENTS;

  constructor(key, { apiUrl = new URL(import.meta.url).origin, autoTrack, autotrack, appVersion }) {
    this.#key = key;
    this.#api = new URL(apiUrl).href.replace(/\/+$/, "");
    this.#auto = autoTrack ?? autotrack ?? true;
    this.#store = new Store(`sendora.${key}.`);
    this.#queue = new Queue(this.#store);
    this.webPush = new WebPush(this.#store, {
      api: this.#api,
      key,
      ask: (method, path) => this.#ask(method, path),
      deliver: (method, path, body) => this.#deliver(method, path, body),
      withdraw: (path) => this.#withdraw(path),
      about: () => ({
        userId: this.userId ?? this.anonymousId,
        known: this.userId !== null,
        said: { ...here(), ...(appVersion === undefined ? {} : { appVersion: String(appVersion) }) },
      }),
    });
    this.push = { trackOpen: (sendId, clickAction) => this.#trackOpen(sendId, clickAction) };

    addEventListener("online", () => {
      this.#gaveUp = false;
      this.#send();
    });
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => document.hidden && this.#send());
    if (this.#auto) {
      this.#watch();
    }
    if (this.#queue.size) {
      this.#schedule(0);
    }
    this.webPush.refresh().catch((error) => warn("the push subscription could not be renewed", error));
  }

  get deviceId() {
    return this.#kept("device");
  }

  get anonymousId() {
    return this.#kept("anonymous");
  }

  get userId() {
    return this.#store.read("user");
  }

  get sessionId() {
    return this.#session();
  }

  track(eventType, properties, { module = "analytics" } = {}) {
    if (typeof eventType !== "string" || !eventType) {
      throw new TypeError("track(eventType, properties): eventType must be a text");
    }
    const sessionId = this.#session();
    const userId = this.userId;
    const eventId = uuid7();
    const event = {
      eventType,
      module,
      properties,
      eventId,
      ...(userId === null ? { anonymousId: this.anonymousId } : { userId }),
      deviceId: this.deviceId,
      sessionId,
      timestamp: new Date().toISOString(),
    };
    if (bytes(JSON.stringify(event)) > EVENT_BYTES) {
      throw new RangeError(`An event may have ${EVENT_BYTES} bytes`);
    }
    this.#queue.add({ method: "POST", path: "/events/batch", body: event }, eventId);
    if (this.#queue.size >= FLUSH_AT) {
      this.#send();
    } else {
      this.#schedule(FLUSH_MS);
    }
    return eventId;
  }

  page(name, properties) {
    const said = typeof name === "string" ? { name, ...properties } : { ...name };
    return this.track("page_viewed", { ...place(), title: document.title, ...said });
  }

  async identify(who, traits) {
    const said = typeof who === "object" && who !== null ? who : { userId: who, traits };
    const { userId } = said;
    if (typeof userId !== "string" || !userId) {
      throw new TypeError("identify(userId, traits) or identify({ userId, email, traits }): userId must be a text");
    }
    if (this.userId !== null && this.userId !== userId) {
      // The anonymous id has become somebody else's.
      this.#forget();
    }
    this.#store.write("user", userId);
    const identified = this.#deliver("POST", "/identify", {
      userId,
      email: said.email,
      traits: said.traits,
      anonymousId: this.anonymousId,
      ...here(),
      eventId: uuid7(),
      timestamp: new Date().toISOString(),
    });
    this.webPush.signedIn();
    return identified;
  }

  /** The user has signed out: this device gets no more pushes, and whoever comes next is somebody new. */
  async reset() {
    this.webPush.signedOut();
    this.#forget();
    await this.flush();
  }

  logout() {
    return this.reset();
  }

  async flush() {
    do {
      await this.#send();
    } while (this.#queue.size && this.#mayGo());
  }

  #trackOpen(sendId, clickAction) {
    return this.#deliver("POST", "/push/track-open", { sendId, clickAction });
  }

  // Who and when

  #kept(name) {
    let id = this.#store.read(name);
    if (id === null) {
      id = uuid7();
      this.#store.write(name, id);
    }
    return id;
  }

  #session() {
    const now = Date.now();
    const before = this.#store.read("session");
    const goesOn = before !== null && now - before.at <= SESSION_IDLE_MS;
    const id = goesOn ? before.id : uuid7();
    this.#store.write("session", { id, at: now });
    if (!goesOn && this.#auto) {
      this.track("session.started");
    }
    return id;
  }

  #forget() {
    for (const name of ["user", "anonymous", "session"]) {
      this.#store.remove(name);
    }
  }

  // What is tracked without being asked for

  #watch() {
    if (document.prerendering) {
      // Nobody may ever see this page.
      document.addEventListener("prerenderingchange", () => this.#watch(), { once: true });
      return;
    }
    this.#session();
    let shown = view();
    this.track("page.viewed", { ...place(), referrer: document.referrer || undefined });
    const moved = () => {
      if (view() !== shown) {
        shown = view();
        this.track("page.viewed", place());
      }
    };
    const pushState = history.pushState;
    history.pushState = function (...given) {
      pushState.apply(this, given);
      moved();
    };
    addEventListener("popstate", moved);
    document.addEventListener("visibilitychange", () => {
      this.track(document.hidden ? "app.backgrounded" : "app.foregrounded");
    });
    const clicked = (event) => {
      const link = event.composedPath().find((node) => node instanceof HTMLAnchorElement && node.href);
      if (link && link.origin === location.origin) {
        this.track("link.clicked", place(link));
      }
    };
    // Before any listener of the page can stop it.
    addEventListener("click", clicked, { capture: true });
  }

  // The queue, and what becomes of its entries

  /** Resolves to the `data` of the answer; to null when the entry stays in the queue, or another tab has sent it. */
  #deliver(method, path, body) {
    const id = this.#queue.add({ method, path, body });
    const answered = new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#send();
    return answered;
  }

  #withdraw(path) {
    for (const { id, entry } of this.#queue.list()) {
      if (entry.method === "POST" && entry.path === path) {
        this.#queue.remove(id);
        this.#settle(id, "resolve", null);
      }
    }
  }

  #schedule(ms) {
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#send();
      }, Math.max(ms, this.#pause()));
    }
  }

  /** Milliseconds until the server may be asked again: every tab and the next page keep to it. */
  #pause() {
    const left = (this.#store.read("resumeAt") ?? 0) - Date.now();
    // Further off than anybody can have said: the clock was turned back.
    return left > PAUSE_MAX_MS ? 0 : Math.max(left, 0);
  }

  #mayGo() {
    return navigator.onLine !== false && this.#pause() === 0;
  }

  /** Sends what there is, one request after the other, until the queue is empty or has to wait. */
  #send() {
    this.#sending ??= this.#drain().finally(() => {
      this.#sending = undefined;
      if (this.#queue.size && this.#mayGo()) {
        // Came in at the last moment.
        this.#schedule(0);
      }
    });
    return this.#sending;
  }

  async #drain() {
    while (this.#mayGo() && (await alone(`sendora.${this.#key}`, () => this.#sendNext())));
    const pause = this.#pause();
    const offline = navigator.onLine === false;
    for (const id of this.#waiting.keys()) {
      // Nobody is kept waiting for what may take hours, or for the answer that another tab has got.
      if (this.#gaveUp || offline || pause > LONG_MS || !this.#queue.has(id)) {
        this.#settle(id, "resolve", null);
      }
    }
    if (pause && this.#queue.size && !this.#gaveUp && !offline) {
      this.#schedule(pause);
    }
  }

  async #sendNext() {
    const next = this.#next(BATCH_BYTES);
    if (next === null) {
      return false;
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    return this.#judge(next, await this.#request(next));
  }

  /** The first entry, and with an event all the events that come right after it. */
  #next(bytesMax) {
    const listed = this.#queue.list();
    if (!listed.length) {
      return null;
    }
    const [{ id, entry }] = listed;
    const { method, path } = entry;
    if (path !== "/events/batch") {
      return { ids: [id], method, path, text: entry.body && JSON.stringify(entry.body) };
    }
    const ids = [];
    const texts = [];
    let size = 0;
    for (const one of listed) {
      if (one.entry.path !== path || ids.length >= this.#batchMax) {
        break;
      }
      const text = JSON.stringify(one.entry.body);
      size += bytes(text) + 1;
      if (size > bytesMax && ids.length) {
        break;
      }
      ids.push(one.id);
      texts.push(text);
    }
    return { ids, method, path, text: `{"events":[${texts.join(",")}]}` };
  }

  /** Whether to go on with the queue. */
  #judge(sent, answer) {
    const { status, data, error } = answer;
    if (status === 413 && sent.ids.length > 1) {
      // More events than this key's bucket can ever hold.
      this.#batchMax = Math.ceil(sent.ids.length / 2);
      return true;
    }
    if (transient(status)) {
      this.#failures += 1;
      // After a 429 the server has said that it will take it.
      this.#gaveUp = status !== 429 && this.#failures > RETRIES;
      this.#store.write("resumeAt", Date.now() + Math.max(backoff(this.#failures), answer.retryAfterMs));
      return false;
    }
    this.#failures = 0;
    this.#gaveUp = false;
    this.#store.remove("resumeAt");
    for (const id of sent.ids) {
      this.#queue.remove(id);
    }
    if (status < 300) {
      if (data?.errors?.length) {
        warn("the server refused some events", data.errors);
      }
      if (sent.method === "POST" && sent.path === "/push/tokens" && data?.id) {
        this.webPush.registered(data.id);
      }
    } else {
      warn(`the server refused ${sent.method} ${sent.path}`, error);
    }
    for (const id of sent.ids) {
      if (status < 300) {
        this.#settle(id, "resolve", data);
      } else {
        this.#settle(id, "reject", failure(status, error));
      }
    }
    return true;
  }

  #settle(id, how, what) {
    this.#waiting.get(id)?.[how](what);
    this.#waiting.delete(id);
  }

  /** The page goes away: what fits into a request that outlives it, unless one is under way already. */
  #leave() {
    const next = this.#sending === undefined && this.#mayGo() ? this.#next(KEEPALIVE_BYTES) : null;
    if (next !== null) {
      this.#request(next).then((answer) => this.#judge(next, answer));
    }
  }

  /** An answer in any case; status 0 when there was none. */
  async #request({ method, path, text }) {
    try {
      const response = await fetch(`${this.#api}/api/v1${path}`, {
        method,
        headers: { "x-api-key": this.#key, ...(text === undefined ? {} : { "content-type": "application/json" }) },
        body: text,
        credentials: "omit",
        keepalive: text === undefined || bytes(text) <= KEEPALIVE_BYTES,
        signal: AbortSignal.timeout?.(REQUEST_MS),
      });
      const envelope = await response.json().catch(() => ({}));
      return {
        // Something else than the API answered, such as the sign-in page of a hotel.
        status: response.ok && envelope.success !== true ? 0 : response.status,
        data: envelope.data,
        error: envelope.error,
        retryAfterMs: retryAfterMs(response.headers.get("retry-after")),
      };
    } catch {
      return { status: 0, retryAfterMs: 0 };
    }
  }

  /** A question that somebody waits for; it does not lie in the queue. */
  async #ask(method, path) {
    for (let failures = 1; ; failures += 1) {
      const { status, data, error, retryAfterMs } = await this.#request({ method, path });
      if (status >= 200 && status < 300) {
        return data;
      }
      const pause = Math.max(backoff(failures), retryAfterMs);
      if (!transient(status) || failures > RETRIES || pause > LONG_MS) {
        throw failure(status, error);
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

/** The browser's push subscription, and the device that the server knows it as. */
class WebPush {
  #store;
  #home;

  constructor(store, home) {
    this.#store = store;
    this.#home = home;
  }

  async subscribe(path = "/sw.js") {
    if (!("serviceWorker" in navigator) || !("PushManager" in globalThis) || !("Notification" in globalThis)) {
      throw new SendoraError("UNSUPPORTED", "This browser has no web push here; on iOS the site must be installed.");
    }
    if (Notification.permission !== "granted") {
      throw new SendoraError("PERMISSION_REQUIRED", "Ask with Notification.requestPermission() first.");
    }
    const script = new URL(path, location.href);
    script.searchParams.set("sendoraApi", this.#home.api);
    script.searchParams.set("sendoraKey", this.#home.key);
    const registration = await navigator.serviceWorker.register(script, { updateViaCache: "none" });
    await activated(registration);
    const subscription = await this.#subscription(registration, await this.#serverKey());
    return this.#register(subscription, registration.scope, { asked: true });
  }

  async unsubscribe() {
    const state = this.#store.read("push");
    if (state === null) {
      return;
    }
    this.#leave(state, "unsubscribed");
    const registration = await navigator.serviceWorker.getRegistration(state.scope);
    await (await registration?.pushManager.getSubscription())?.unsubscribe();
  }

  /** At the start of a page: a subscription that the browser has replaced meanwhile, or another language. */
  async refresh() {
    const state = this.#store.read("push");
    if (state === null || state.off || globalThis.Notification?.permission !== "granted") {
      return;
    }
    const registration = await navigator.serviceWorker.getRegistration(state.scope);
    if (!registration?.active) {
      return;
    }
    const subscription =
      (await registration.pushManager.getSubscription()) ??
      (await this.#subscription(registration, await this.#serverKey()));
    if (JSON.stringify(this.#body(subscription.toJSON())) !== JSON.stringify(state.body)) {
      await this.#register(subscription, state.scope);
    }
  }

  signedIn() {
    const state = this.#store.read("push");
    const who = this.#home.about().userId;
    if (state !== null && state.off !== "unsubscribed" && (state.off || state.body.userId !== who)) {
      this.#say(this.#body(state.body.subscription), state.scope, true).catch((error) =>
        warn("the device could not be registered", error),
      );
    }
  }

  signedOut() {
    const state = this.#store.read("push");
    if (state !== null && !state.off) {
      this.#leave(state, "signedOut");
    }
  }

  /** The server's id of this device; it may come after the user has left. */
  registered(id) {
    const state = this.#store.read("push");
    if (state === null) {
      return;
    }
    if (state.off) {
      this.#deactivate(id);
    } else {
      this.#store.write("push", { ...state, id });
    }
  }

  #leave(state, off) {
    this.#home.withdraw("/push/tokens");
    if (state.id !== undefined && !state.off) {
      this.#deactivate(state.id);
    }
    this.#store.write("push", { ...state, off });
    remember(this.#home.key, null);
  }

  #deactivate(id) {
    this.#home.deliver("DELETE", `/push/tokens/${id}`).catch((error) => {
      warn("the device could not be signed out", error);
    });
  }

  async #serverKey() {
    const { publicKey } = await this.#home.ask("GET", "/push/vapid");
    const text = atob(publicKey.replaceAll("-", "+").replaceAll("_", "/"));
    return Uint8Array.from(text, (character) => character.charCodeAt(0));
  }

  async #subscription(registration, key) {
    const before = await registration.pushManager.getSubscription();
    const theirs = before?.options?.applicationServerKey;
    if (before && (!theirs || String(new Uint8Array(theirs)) === String(key))) {
      return before;
    }
    // A subscription is bound to the key that it was made with.
    await before?.unsubscribe();
    return registration.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
  }

  /** A new address is simply registered: the old one goes when a send finds it dead. */
  #register(subscription, scope, { asked = false } = {}) {
    const state = this.#store.read("push");
    const { userId, known } = this.#home.about();
    const signedIn = known && (state === null || Boolean(state.off) || state.body.userId !== userId);
    const again = asked && state?.off === "unsubscribed";
    return this.#say(this.#body(subscription.toJSON()), scope, signedIn || again);
  }

  #body({ endpoint, keys }) {
    const { userId, said } = this.#home.about();
    const subscription = { endpoint, keys: { p256dh: keys.p256dh, auth: keys.auth } };
    return { token: endpoint, platform: "web", userId, subscription, ...said };
  }

  #say(body, scope, reactivate) {
    const state = this.#store.read("push");
    const id = state?.body.token === body.token ? state.id : undefined;
    this.#store.write("push", { scope, body, id });
    remember(this.#home.key, body);
    return this.#home.deliver("POST", "/push/tokens", reactivate ? { ...body, reactivate } : body);
  }
}

/** Entries in the order in which they came, each under a key of its own: tabs never overwrite each other's. */
class Queue {
  #store;
  #characters = 0;
  size = 0;

  constructor(store) {
    this.#store = store;
    this.list();
  }

  list() {
    const ids = this.#store.names("queue.").sort();
    const listed = ids.map((name) => ({ id: name.slice("queue.".length), entry: this.#store.read(name) }));
    this.size = listed.length;
    this.#characters = ids.reduce((sum, name) => sum + this.#store.length(name), 0);
    return listed.filter(({ entry }) => entry !== null);
  }

  add(entry, id = uuid7()) {
    const text = JSON.stringify(entry);
    if (this.size + 1 > QUEUE_ENTRIES || this.#characters + text.length > QUEUE_CHARACTERS) {
      this.#makeRoom(text.length);
    }
    this.#store.write(`queue.${id}`, entry);
    this.size += 1;
    this.#characters += text.length;
    return id;
  }

  has(id) {
    return this.#store.length(`queue.${id}`) > 0;
  }

  remove(id) {
    const name = `queue.${id}`;
    const length = this.#store.length(name);
    if (length) {
      this.#store.remove(name);
      this.size -= 1;
      this.#characters -= length;
    }
  }

  #makeRoom(characters) {
    // Other tabs have added and sent as well.
    for (const { id } of this.list()) {
      if (this.size < QUEUE_ENTRIES && this.#characters + characters <= QUEUE_CHARACTERS) {
        return;
      }
      this.remove(id);
    }
  }
}

/** JSON under a prefix: in localStorage, and in memory what it does not take. */
class Store {
  #prefix;
  #memory = new Map();

  constructor(prefix) {
    this.#prefix = prefix;
  }

  read(name) {
    const text = this.#text(name);
    try {
      return text === null ? null : JSON.parse(text);
    } catch {
      this.remove(name);
      return null;
    }
  }

  write(name, value) {
    const text = JSON.stringify(value);
    try {
      localStorage.setItem(this.#prefix + name, text);
      this.#memory.delete(name);
    } catch {
      // It is forbidden, or full.
      this.#memory.set(name, text);
    }
  }

  remove(name) {
    this.#memory.delete(name);
    quietly(() => localStorage.removeItem(this.#prefix + name));
  }

  length(name) {
    return this.#text(name)?.length ?? 0;
  }

  names(start) {
    const kept = quietly(() => Object.keys(localStorage)) ?? [];
    const ours = kept.filter((name) => name.startsWith(this.#prefix)).map((name) => name.slice(this.#prefix.length));
    return [...new Set([...ours, ...this.#memory.keys()])].filter((name) => name.startsWith(start));
  }

  #text(name) {
    return this.#memory.get(name) ?? quietly(() => localStorage.getItem(this.#prefix + name)) ?? null;
  }
}

function quietly(act) {
  try {
    return act();
  } catch {
    return undefined;
  }
}

function warn(...said) {
  console.warn("sendora:", ...said);
}

function bytes(text) {
  return new TextEncoder().encode(text).length;
}

/** One tab at a time, where the browser can say so; a second one would only send things twice. */
function alone(name, act) {
  return navigator.locks && self.origin !== "null" ? navigator.locks.request(name, act) : act();
}

function transient(status) {
  return status === 0 || status === 408 || status === 429 || status >= 500;
}

function failure(status, error) {
  return new SendoraError(error?.code ?? "UNREACHABLE", error?.message ?? "The server could not be reached.", status);
}

function backoff(failures) {
  const steady = Math.min(BACKOFF_MS * 2 ** (failures - 1), BACKOFF_MAX_MS);
  return steady * (1 - JITTER + 2 * JITTER * Math.random());
}

/** In seconds or as a date (RFC 9110 10.2.3). */
function retryAfterMs(said) {
  if (!said) {
    return 0;
  }
  const ms = /^\d+$/.test(said) ? Number(said) * 1_000 : Date.parse(said) - Date.now();
  return Math.min(Math.max(ms || 0, 0), PAUSE_MAX_MS);
}

/** The language and the time zone of this browser, where the server will know them. */
function here() {
  const locale = quietly(() => Intl.getCanonicalLocales(navigator.language)[0]);
  const timezone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  return {
    ...(locale && locale.length <= 35 ? { locale } : {}),
    ...(timezone && timezone !== "Etc/Unknown" ? { timezone } : {}),
  };
}

/** Without the fragment, which may hold what is nobody's business. */
function place({ origin, pathname, search } = location) {
  return { url: origin + pathname + search, path: pathname };
}

/** What makes a page another page; fragments do so only for routers that live in them. */
function view() {
  return location.pathname + location.search + (/^#!?\//.test(location.hash) ? location.hash : "");
}

function activated(registration) {
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (registration.active) {
        resolve();
      } else if (worker.state === "redundant") {
        reject(new SendoraError("WORKER_FAILED", "The service worker could not be installed."));
      }
    };
    worker.addEventListener("statechange", look);
    look();
  });
}

/** Leaves the registration where the worker finds it: a subscription may be replaced while no page is open. */
async function remember(key, body) {
  try {
    const cache = await caches.open("sendora");
    const name = `/sendora-device?key=${key}`;
    await (body === null ? cache.delete(name) : cache.put(name, new Response(JSON.stringify(body))));
  } catch (error) {
    warn("the worker will not know this device", error);
  }
}

let last = 0;
let count = 0;

/** RFC 9562; those of one millisecond count up in the twelve bits after the version, so they sort as they came. */
function uuid7() {
  const now = Date.now();
  if (now > last) {
    last = now;
    count = 0;
  } else if (++count > 0xfff) {
    last += 1;
    count = 0;
  }
  const time = last.toString(16).padStart(12, "0");
  const random = crypto.getRandomValues(new Uint8Array(8));
  random[0] = (random[0] & 0x3f) | 0x80;
  const rest = Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
  const counted = count.toString(16).padStart(3, "0");
  return `${time.slice(0, 8)}-${time.slice(8)}-7${counted}-${rest.slice(0, 4)}-${rest.slice(4)}`;
}
