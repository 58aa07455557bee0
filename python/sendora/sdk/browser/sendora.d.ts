/** Sendora for web pages. See sendora.js. */

export interface Options {
  /** `pk_<environment>_...`; a secret key is refused. */
  publicKey: string;
  /** Where the API is; by default where this module came from. */
  baseUrl?: string;
  /** Whether page views, sessions, clicks on own links and visibility are told by themselves; default true. */
  autoTrack?: boolean;
  /** As `autoTrack`. */
  autotrack?: boolean;
  appVersion?: string;
  /** Hears of what was refused or given up; by default it is written to the console. */
  onError?: (error: Error) => void;
}

export type Properties = Record<string, unknown>;

export interface Identity {
  userId: string;
  /** Sets the user's email; `traits.email` sets the trait. */
  email?: string;
  traits?: Properties;
}

export interface Profile {
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

export interface TrackOptions {
  /** Default "analytics". */
  module?: string;
  timestamp?: Date | string | number;
}

export interface WebPush {
  /**
   * Registers the worker at this path (default "/sw.js") and this browser as a device. Never prompts: throws
   * PERMISSION_REQUIRED unless the page has been granted notifications. Null: the server will be told later.
   */
  subscribe(path?: string): Promise<Device | null>;
  unsubscribe(): Promise<void>;
  /** Tells the server of a changed subscription; done by itself when a page opens and after identify(). */
  renew(options?: { login?: boolean }): Promise<void>;
}

export interface Sendora {
  readonly deviceId: string;
  readonly sessionId: string;
  readonly anonymousId: string;
  readonly userId: string | null;
  readonly webPush: WebPush;
  readonly push: {
    /** `sendId`: of the payload's data, sendoraSendId or sendoraDeliveryId. */
    trackOpen(sendId: string, clickAction?: string): Promise<void>;
  };
  /** Gives the event's id. */
  track(eventType: string, properties?: Properties, options?: TrackOptions): string;
  page(name?: string, properties?: Properties): string;
  /** Null when the server is out of reach: it is told later. */
  identify(userId: string, traits?: Properties): Promise<Profile | null>;
  identify(identity: Identity): Promise<Profile | null>;
  reset(): Promise<void>;
  logout(): Promise<void>;
  flush(): Promise<void>;
}

export class SendoraError extends Error {
  readonly code: string;
  /** 0: there was no answer. */
  readonly status: number;
  readonly details: Properties;
  readonly requestId: string | null;
  readonly retryAfterMs: number;
  readonly transient: boolean;
}

/** Throws SendoraError PUBLIC_KEY_REQUIRED for anything but a public key. */
export function init(options: Options): Sendora;

export function uuid7(): string;
