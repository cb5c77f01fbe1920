/**
 * The way to one customer's API: the session that the link opens, what is asked, and what may go wrong.
 *
 * Every number of an answer is read as a BigInt, so that no quantity and no amount is ever rounded by the browser. The
 * types are those that v1/openapi.json describes; amounts are in the currency's smallest unit.
 *
 * @typedef {"counting" | "closed" | "posted"} State
 * @typedef {"hour" | "day" | "month"} Unit
 * @typedef {{period: string, metric: string, value: string | null, name?: string, quantity: bigint, scale: bigint,
 *   state: State}} Row
 * @typedef {{customer: string, from: string, to: string, by: Unit, as_of: string, dimension: string | null,
 *   names: Record<string, string>, usage: Row[]}} Usage
 *
 * @typedef {"day" | "week" | "month" | "year"} Interval
 * @typedef {{up_to: bigint | null, amount: string, flat: string}} Tier
 * @typedef {{kind: "per_unit", interval: Interval, amount: string}
 *   | {kind: "package", interval: Interval, amount: string, size: bigint}
 *   | {kind: "graduated" | "volume", interval: Interval, tiers: Tier[]}
 *   | {kind: "flat", interval: Interval, amount: string, included: Record<string, bigint>}} Terms
 *
 * @typedef {{quantity: bigint, unit_amount: string, exact: string, amount: bigint}
 *   & ({first: bigint, last: bigint} | {first: null, last: null})} Step
 * @typedef {{price: string, title: string, metric: string | null, kind: Terms["kind"], quantity: bigint, scale: bigint,
 *   amount: bigint, in_advance: boolean, in_words: string, terms: Terms, steps: Step[]}} Line
 * @typedef {{price: string, quantity: bigint, amount: bigint}} ForecastLine
 * @typedef {{metric: string, hour: string, kind: "adjustment" | "carried", quantity: bigint,
 *   scale: bigint}} Correction
 * @typedef {{description: string, price: string, quantity: bigint | null, amount: bigint}} PreviewLine
 * @typedef {{customer: string, name: string, currency: string, decimals: bigint, period: {from: string, to: string},
 *   plans: string[], so_far: {total: bigint, lines: Line[]},
 *   forecast: {total: bigint, low: bigint | null, high: bigint | null, lines: ForecastLine[], basis: string},
 *   corrections: Correction[],
 *   preview: {total: bigint, as_of: string, lines: PreviewLine[]}}} Invoice
 *
 * @typedef {{type: Terms["kind"], terms: Terms}} Price
 * @typedef {{name: string, title: string, currency: string, decimals: bigint, interval: Interval,
 *   prices: Price[]}} Plan
 * @typedef {{name: string, kind: "count" | "sum" | "unique" | "max", scale: bigint,
 *   title: string | null, unit: string | null, dimension: string | null}} Metric
 * @typedef {{hours: bigint, hours_by_key: bigint}} Limits
 * @typedef {{plans: Plan[], metrics: Metric[], limits: Limits}} Prices
 *
 * @typedef {"open" | "past_due" | "paid" | "void" | "uncollectible"} InvoiceState
 * @typedef {{id: string, number: string | null, from: string, to: string, state: InvoiceState, currency: string,
 *   decimals: bigint, total: bigint, due: bigint, due_at: string | null, attempts: bigint,
 *   next_attempt_at: string | null, page_url: string | null, pdf_url: string | null}} PastInvoice
 * @typedef {{customer: string, invoices: PastInvoice[], more: boolean,
 *   payment: {state: "settled" | "open" | "past_due", manage_url: string | null}, as_of: string}} PastInvoices
 *
 * @typedef {{does: "notify" | "slow" | "stop", percent: bigint, at: bigint, acted_at: string | null}} LimitStep
 * @typedef {{limit: string, metric: string, title?: string, per: "hour" | "day" | "month" | "period",
 *   window: {from: string, to: string}, most: bigint, used: bigint, remaining: bigint, percent: bigint, scale: bigint,
 *   at_least: boolean, source: "plan" | "customer" | "budget", source_in_words: string, steps: LimitStep[]}} Limit
 * @typedef {{name: string, access: "slowed" | "stopped", since: string | null, until: string | null}} Reason
 * @typedef {{notify: bigint | null, stop: bigint | null}} Amounts
 * @typedef {Amounts & {may_stop: boolean, may_set: boolean}} Budget
 * @typedef {{customer: string, access: "open" | "slowed" | "stopped", reasons: Reason[], currency: string | null,
 *   decimals: bigint, limits: Limit[], budget: Budget, as_of: string}} Standing
 */

const PATIENCE_MS = 15_000; // longer than the function may take
const WAIT_MS = 1_500; // until a route that is asked too much takes more
const MOST_TRIES = 3;
const TOKEN = `metering token ${location.pathname}`;
const ENDED = `metering ended ${location.pathname}`;

let link = ""; // until it has opened a session
let token = ""; // the session's
let skew = 0; // the server's clock less ours, in milliseconds

/** @type {Map<string, {etag: string, body: unknown}>} */
const answers = new Map();

/** What the API, or the way to it, said instead of an answer; status 0 is no answer at all. */
export class Problem extends Error {
  /** @param {number} status @param {string} detail @param {number} waitMs */
  constructor(status, detail, waitMs = 0) {
    super(detail);
    this.status = status;
    this.waitMs = waitMs;
  }
}

/** The present moment by the server's clock. */
export const now = () => new Date(Date.now() + skew);

/** Take the token out of the link, or the session's out of the tab; say if there is anything to ask with.
 *
 * A browser's history keeps the link, which is why it opens nothing but a session, and not for long.
 */
export function takeToken() {
  const given = location.hash.slice(1);
  if (given && given !== "main") {
    [link, token] = [given, ""];
    store((storage) => [TOKEN, ENDED].forEach((name) => storage.removeItem(name)));
  } else {
    token = store((storage) => storage.getItem(TOKEN)) ?? "";
  }
  return hasToken();
}

/** Say if there is a link or a session to ask with. */
export const hasToken = () => (link || token) !== "";

/** Open a session with the link, if there is none yet; throw a Problem where it opens none. */
export async function openSession() {
  if (token) return;
  const response = await call("v1/session", {}, "POST");
  token = /** @type {{token: string}} */ (await response.json()).token;
  leaveLink();
  store((storage) => storage.setItem(TOKEN, token));
}

/** Forget the link, and take it out of the address bar. */
function leaveLink() {
  link = "";
  history.replaceState(null, "", location.pathname + location.search);
}

/** Forget the session and all that was answered to it, but for when it ended: a reload still says so. */
export function dropToken() {
  const end = tokenEnd();
  leaveLink();
  token = "";
  answers.clear();
  store((storage) => storage.removeItem(TOKEN));
  if (end) store((storage) => storage.setItem(ENDED, end.toISOString()));
}

/** Return until when a session or link of this tab worked that is forgotten, or null. */
export function endedAt() {
  const end = store((storage) => storage.getItem(ENDED));
  return end ? new Date(end) : null;
}

/** Say if it is the link that is asked with, which has opened no session yet. */
export const isLink = () => link !== "";

/** Return when the session ends, or the link, or null if it does not say. */
export function tokenEnd() {
  try {
    const claims = atob((link || token).split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const { exp } = /** @type {{exp?: unknown}} */ (JSON.parse(claims));
    return typeof exp === "number" ? new Date(exp * 1000) : null;
  } catch {
    return null;
  }
}

/** Use the session's storage where the browser lets us; without, a reload asks for the link again.
 * @template T @param {(storage: Storage) => T} use */
function store(use) {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}

/** Return what was used, with what keys are called; throw a Problem, as all that ask.
 * @param {Record<string, string>} query */
export async function usage(query) {
  const { usage: rows, names } = /** @type {Usage} */ (await ask("v1/usage", query));
  /** @param {string} key whose id may be called as what every object has */
  const name = (key) => (Object.hasOwn(names, key) ? names[key] : undefined);
  return query.dimension === "key" ? rows.map((row) => ({ ...row, name: name(row.value ?? "") })) : rows;
}

/** Return the running invoice. */
export async function invoice() {
  return /** @type {Invoice} */ (await ask("v1/invoice"));
}

/** Return the invoices of past periods. */
export async function invoices() {
  return /** @type {PastInvoices} */ (await ask("v1/invoices"));
}

/** Return the plans and metrics that are declared. */
export async function prices() {
  return /** @type {Prices} */ (await ask("v1/prices"));
}

/** Return how the customer stands with its limits. */
export async function standing() {
  return /** @type {Standing} */ (await ask("v1/limits"));
}

/** Set the whole budget; return it as it then is. @param {Amounts} budget */
export async function setBudget({ notify, stop }) {
  const body = `{"notify":${notify},"stop":${stop}}`; // whole numbers of any size, or null
  const response = await call("v1/budget", { "Content-Type": "application/json" }, "PUT", body);
  return /** @type {Budget} */ (exactly(await response.text()));
}

/** Return usage as a CSV file and the name that the API gives it. @param {Record<string, string>} query */
export async function usageFile(query) {
  const response = await call(`v1/usage?${new URLSearchParams(query)}`, { Accept: "text/csv" });
  const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "usage.csv";
  return { name, content: await response.text() };
}

/** Return what the API answers; the same object as before where it is unchanged.
 * @param {string} path @param {Record<string, string>} query */
async function ask(path, query = {}) {
  const url = `${path}?${new URLSearchParams(query)}`;
  const known = answers.get(url);
  const response = await call(url, known ? { "If-None-Match": known.etag } : {});
  if (response.status === 304 && known) return known.body;
  const body = exactly(await response.text());
  const etag = response.headers.get("ETag");
  if (etag) answers.set(url, { etag, body });
  return body;
}

/** @param {string} url @param {Record<string, string>} headers
 * @param {string | null} body @returns {Promise<Response>} */
async function call(url, headers, method = "GET", body = null, tries = 1) {
  let response;
  try {
    response = await fetch(url, {
      method,
      body,
      headers: { Authorization: `Bearer ${token || link}`, ...headers },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Problem(0, navigator.onLine ? "The server does not answer." : "This device is offline.");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (date) skew = date - Date.now();
  if (response.ok || response.status === 304) return response;
  if (response.status === 429 && tries < MOST_TRIES) {
    await new Promise((resolve) => setTimeout(resolve, WAIT_MS));
    return call(url, headers, method, body, tries + 1);
  }
  /** @type {(problem: {detail?: unknown}) => string} */
  const said = (problem) => String(problem.detail ?? "");
  const detail = await response.json().then(said, () => "");
  throw new Problem(response.status, detail, Number(response.headers.get("Retry-After") ?? 0) * 1000);
}

/** Parse JSON whose numbers are all whole, each from its own digits where the browser shows them.
 * @param {string} text @returns {unknown} */
function exactly(text) {
  /** @type {(key: string, value: unknown, context?: {source: string}) => unknown} */
  const whole = (_, value, context) => (typeof value === "number" ? BigInt(context?.source ?? value) : value);
  return JSON.parse(text, whole);
}
