export interface Options {
  /** `pk_<environment>_...`. An `sk_` key is refused: it must never reach a browser. */
  publicKey: string;
  /** Where the API is. Unless given, where this module was loaded from; a bundled copy must be told. */
  apiUrl?: string;
  /**
   * Track without being asked: `page.viewed` (the first page, and every one that the history moves to),
   * `session.started`, `link.clicked` (links within the site), `app.foregrounded` and `app.backgrounded`. They count as
   * any event does. Default true; false turns nothing else off.
   */
  autoTrack?: boolean;
  /** The same; `autoTrack` wins. */
  autotrack?: boolean;
  /** Of your site; kept with the device. */
  appVersion?: string;
}

export type Properties = Record<string, unknown>;

export interface Identity {
  /** The profile's `externalId`. */
  userId: string;
  /** Sets `user.email`; `traits.email` is a trait. */
  email?: string;
  /** Merged into the profile's. */
  traits?: Properties;
}

export interface Identified {
  id: string;
  externalId: string;
}

export interface Device {
  id: string;
  token: string;
  userId: string | null;
  platform: "web";
  isActive: boolean;
}

export interface Opened {
  id: string;
  clickAction: string | null;
}

/**
 * `code` is the API's, or one of SECRET_KEY, PUBLIC_KEY_REQUIRED, UNSUPPORTED, PERMISSION_REQUIRED, WORKER_FAILED,
 * UNREACHABLE.
 */
export class SendoraError extends Error {
  readonly code: string;
  /** Of the answer; 0 when there was none, undefined when nothing was asked. */
  readonly status?: number;
}

export interface WebPush {
  /**
   * Register the worker at `path` (default `/sw.js`), subscribe, and register this browser as a device of the user.
   * It never shows the browser's question: ask with `Notification.requestPermission()` first. Resolves to null when the
   * registration waits in the queue.
   */
  subscribe(path?: string): Promise<Device | null>;
  /** Take the device out of service, and give the subscription back to the browser. */
  unsubscribe(): Promise<void>;
}

export interface Push {
  /**
   * A notification was opened; sw.js tells so by itself. `sendId`: `sendoraDeliveryId` or `sendoraSendId` of its data.
   * `clickAction`: the id of the button; none for the notification itself.
   */
  trackOpen(sendId: string, clickAction?: string): Promise<Opened | null>;
}

/**
 * Calls that return a promise resolve to the answer, reject with a SendoraError when the server refuses, and resolve to
 * null when it cannot be reached for now: what was said is in the queue then and goes out later, also after a reload.
 * (And when another tab has sent it, which alone has the answer.)
 */
export interface Sendora {
  readonly webPush: WebPush;
  readonly push: Push;
  readonly deviceId: string;
  /** Who the visitor is until `identify`; another one after `reset`. */
  readonly anonymousId: string;
  readonly userId: string | null;
  /** Ends when nothing has been tracked for 30 minutes. */
  readonly sessionId: string;

  /**
   * Something has happened; returns the event's id. It is sent with others a moment later.
   * Throws TypeError when it is no JSON, RangeError over 256 KiB. `module` is "analytics" unless given.
   */
  track(eventType: string, properties?: Properties, options?: { module?: string }): string;
  /** A `page_viewed` event, with `name`, the address and the title among its properties. */
  page(name?: string, properties?: Properties): string;
  page(properties: Properties): string;

  /** Bind what this visitor has done, and does from now on, to a user. */
  identify(userId: string, traits?: Properties): Promise<Identified | null>;
  identify(identity: Identity): Promise<Identified | null>;
  /** The user has signed out: this device gets no more pushes, and whoever comes next is somebody new. */
  reset(): Promise<void>;
  logout(): Promise<void>;

  /** Send what waits; returns when it is sent, or has to wait longer (no network, or the server asked for a pause). */
  flush(): Promise<void>;
}

/** The instance of a key: the same one, however often a page asks. Throws SendoraError for a key that is not public. */
export function init(options: Options): Sendora;
