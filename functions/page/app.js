// @ts-check
/**
 * The usage page: reads one customer's API and shows what it says.
 *
 * Every number of an answer is read as a BigInt, so that no quantity and no amount is ever rounded by the browser; only
 * the heights of bars are floats. Whatever comes from the API becomes text, never markup. All times are UTC.
 *
 * @typedef {{period: string, metric: string, value: string | null, quantity: bigint, scale: bigint, state: State}} Row
 * @typedef {"counting" | "closed" | "posted"} State
 * @typedef {{quantity: bigint, state: State}} Cell
 * @typedef {{label: string, short: string, cell: Cell | null, before: bigint | null, future: boolean}} Bar
 */

const POLL_MS = 5_000; // what moves: the last two days' hours, and the invoice
const ALL_MS = 60_000; // everything
const PARTS_MS = 15_000; // by key and by dimension, if the metric has moved
const SLOWEST_MS = 60_000; // between two tries while nothing answers
const PATIENCE_MS = 30_000; // as long as API Gateway waits
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
const MOST_DAY_BARS = 62; // a longer period is shown by month
const MOST_PARTS = 100;
const TOKEN = `metering token ${location.pathname}`;
const STATES = /** @type {State[]} */ (["counting", "closed", "posted"]); // least settled first
const LATEST = "latest";
const PERIOD = "period";

const page = {
  token: "",
  paused: false,
  failures: 0,
  timer: 0,
  busy: false,
  allAt: -Infinity,
  skew: 0, // the server's clock less ours, in milliseconds
  metric: "",
  span: "",
};

/** What the API said last. */
const model = {
  /** @type {any} */ prices: null,
  /** @type {any} */ invoice: null,
  /** @type {Problem | null} */ noInvoice: null,
  begin: "", // of the period, as an hour: 2026-11-22T05
  end: "",
  recentFrom: "",
  /** @type {Row[]} */ days: [], // up to recentFrom
  /** @type {Row[]} */ recent: [], // by hour, from then on
  /** @type {Row[]} */ beforeByNow: [], // the previous period, as far as this one has come
  /** @type {Row[]} */ beforeRest: [],
  /** @type {Map<string, Row[]>} */ hoursOf: new Map(), // by day, of earlier days that were looked at
  /** @type {Record<string, {name: string, total: bigint, rows: Row[], at: number}>} */ parts: {},
};

/** What the API, or the way to it, said instead of an answer; status 0 is no answer at all. */
class Problem extends Error {
  /** @param {number} status @param {string} detail @param {number} waitMs */
  constructor(status, detail, waitMs = 0) {
    super(detail);
    this.status = status;
    this.waitMs = waitMs;
  }
}

// ---------------------------------------------------------------------------------------------- the token and the API

/** Take the token out of the link, and the link's end out of the address bar and the history. */
function takeToken() {
  const given = location.hash.slice(1);
  if (given && given !== "main") {
    page.token = given;
    store((storage) => storage.setItem(TOKEN, given));
    history.replaceState(null, "", location.pathname + location.search);
  } else {
    page.token = store((storage) => storage.getItem(TOKEN)) ?? "";
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

/** Return when the token ends, or null if it does not say. */
function tokenEnd() {
  try {
    const claims = atob(page.token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"));
    const { exp } = JSON.parse(claims);
    return typeof exp === "number" ? new Date(exp * 1000) : null;
  } catch {
    return null;
  }
}

/** @type {Map<string, {etag: string, body: any}>} */
const answers = new Map();

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

/** @param {string} url @param {Record<string, string>} headers */
async function call(url, headers) {
  let response;
  try {
    response = await fetch(url, {
      headers: { Authorization: `Bearer ${page.token}`, ...headers },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new Problem(0, navigator.onLine ? "The server does not answer." : "This device is offline.");
  }
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (date) page.skew = date - Date.now();
  if (response.ok || response.status === 304) return response;
  const detail = await response.json().then((problem) => String(problem.detail ?? ""), () => "");
  throw new Problem(response.status, detail, Number(response.headers.get("Retry-After") ?? 0) * 1000);
}

/** Parse JSON whose numbers are all whole, each from its own digits where the browser shows them.
 * @param {string} text */
function exactly(text) {
  /** @type {(key: string, value: any, context?: {source: string}) => any} */
  const whole = (_, value, context) => (typeof value === "number" ? BigInt(context?.source ?? value) : value);
  return JSON.parse(text, whole);
}

/** @param {Record<string, string>} query @returns {Promise<Row[]>} */
async function usage(query) {
  return (await ask("v1/usage", query)).usage;
}

// ----------------------------------------------------------------------------------------------------- reading, in turn

/** Read what is due, show it, and come again. */
async function turn() {
  clearTimeout(page.timer);
  if (page.busy || !page.token) return;
  page.busy = true;
  const began = performance.now();
  let wait = POLL_MS;
  try {
    if (began - page.allAt >= ALL_MS || hourOf(now()) >= model.end) {
      await readInvoice(); // whose period the rest is about
      await readAll();
      page.allAt = began;
    } else {
      const [recent] = await Promise.all([usage({ from: model.recentFrom, by: "hour" }), readInvoice()]);
      model.recent = recent;
    }
    show();
    await readParts();
    showParts();
    well();
    wait = Math.max(POLL_MS / 5, POLL_MS - (performance.now() - began));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return ended(error.message);
    page.failures += 1;
    wait = Math.min(SLOWEST_MS, Math.max(error.waitMs, POLL_MS * 2 ** (page.failures - 1)));
    trouble(error, wait);
  } finally {
    page.busy = false;
  }
  if (!page.paused && !document.hidden) page.timer = setTimeout(turn, wait);
}

/** Without an invoice, whatever went wrong with it, the usage is shown all the same; a link that ended ends both. */
async function readInvoice() {
  try {
    model.invoice = await ask("v1/invoice");
    model.noInvoice = null;
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    if (error.status === 404) model.invoice = null; // otherwise the last one stays, and says of when it is
    model.noInvoice = error;
  }
}

async function readAll() {
  model.prices ??= await ask("v1/prices");
  const today = now();
  [model.begin, model.end] = period(today);
  const begin = dateOf(model.begin);
  const recent = new Date(Math.max(begin.getTime(), dayStart(new Date(today.getTime() - DAY_MS)).getTime()));
  const earlier = previousBegin(begin);
  const elapsed = dateOf(hourOf(today)).getTime() - begin.getTime();
  const byNow = new Date(Math.min(begin.getTime(), earlier.getTime() + elapsed));
  model.recentFrom = hourOf(recent);
  const between = (/** @type {Date} */ from, /** @type {Date} */ to) =>
    from < to ? usage({ from: hourOf(from), to: hourOf(to), by: "day" }) : Promise.resolve([]);
  const looked = [...model.hoursOf.keys()];
  let hours;
  [model.days, model.recent, model.beforeByNow, model.beforeRest, ...hours] = await Promise.all([
    between(begin, recent),
    usage({ from: model.recentFrom, by: "hour" }),
    between(earlier, byNow),
    between(byNow, begin),
    ...looked.map(readDay),
  ]);
  model.hoursOf = new Map(looked.map((day, n) => [day, hours[n]]));
  page.metric ||= busiest();
  page.span ||= elapsed < 2 * DAY_MS ? LATEST : PERIOD;
}

/** @param {string} day */
function readDay(day) {
  const first = `${day}T00` > model.begin ? `${day}T00` : model.begin;
  return usage({ from: first, to: hourOf(new Date(dateOf(`${day}T00`).getTime() + DAY_MS)), by: "hour" });
}

/** Read the chosen metric by key and by its dimension, if it has moved since. */
async function readParts() {
  const total = totalOf(page.metric).quantity;
  const declared = model.prices.metrics.find((/** @type {any} */ one) => one.name === page.metric);
  await Promise.all(
    ["key", declared?.dimension].map(async (name, n) => {
      const slot = n ? "by-dimension" : "by-key";
      const known = model.parts[slot];
      if (!name) return void delete model.parts[slot];
      const same = known?.name === `${page.metric} ${name}`;
      const age = now().getTime() - (known?.at ?? 0);
      if (same && (known.total === total || age < PARTS_MS) && age < ALL_MS) return;
      const rows = await usage({ from: model.begin, by: "month", metric: page.metric, dimension: name });
      model.parts[slot] = { name: `${page.metric} ${name}`, total, rows, at: now().getTime() };
    }),
  );
}

// ---------------------------------------------------------------------------------------------------------------- times

/** The present moment by the server's clock. */
const now = () => new Date(Date.now() + page.skew);
const hourOf = (/** @type {Date} */ date) => date.toISOString().slice(0, 13);
const dateOf = (/** @type {string} */ hour) => new Date(`${hour}:00:00Z`);
const dayStart = (/** @type {Date} */ date) => new Date(Math.floor(date.getTime() / DAY_MS) * DAY_MS);

/** Return the first hour of the period and the one after it: the subscription's, or this calendar month's.
 * @param {Date} at @returns {[string, string]} */
function period(at) {
  if (model.invoice) return [model.invoice.period.from, model.invoice.period.to];
  const [year, month] = [at.getUTCFullYear(), at.getUTCMonth()];
  return [hourOf(new Date(Date.UTC(year, month, 1))), hourOf(new Date(Date.UTC(year, month + 1, 1)))];
}

/** Return when the previous period began: an interval of the plan earlier, on the month's last day if it is shorter.
 * @param {Date} begin */
function previousBegin(begin) {
  const plan = model.prices.plans.find((/** @type {any} */ one) => one.name === model.invoice?.plans[0]);
  const interval = plan?.interval ?? "month";
  const days = { day: 1, week: 7 }[/** @type {string} */ (interval)];
  if (days) return new Date(begin.getTime() - days * DAY_MS);
  const found = new Date(begin);
  found.setUTCMonth(begin.getUTCMonth() - (interval === "year" ? 12 : 1));
  if (found.getUTCDate() !== begin.getUTCDate()) found.setUTCDate(0);
  return found;
}

const DAY_WORDS = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const MONTH_WORDS = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric", timeZone: "UTC" });
const WEEKDAY_WORDS = new Intl.DateTimeFormat("en-GB", {
  weekday: "short", day: "numeric", month: "short", timeZone: "UTC",
});
const MOMENT_WORDS = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC",
});
const CLOCK_WORDS = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC",
});

/** @param {string} written 2026-11, 2026-11-22 or 2026-11-22T05 */
function inWords(written) {
  if (written.length === 7) return MONTH_WORDS.format(dateOf(`${written}-01T00`));
  if (written.length === 10) return WEEKDAY_WORDS.format(dateOf(`${written}T00`));
  return `${DAY_WORDS.format(dateOf(written))}, ${written.slice(11)}:00`;
}

// ------------------------------------------------------------------------------------------------------------- figures

/** Write an exact decimal number: `digits` are its whole units of 10 to the power of -`places`.
 * @param {string} digits whole or decimal @param {number} places */
function shifted(digits, places) {
  const negative = digits.startsWith("-");
  const [whole, fraction = ""] = digits.replace("-", "").split(".");
  const padded = whole.padStart(places + 1, "0");
  const point = padded.length - places;
  return `${negative ? "-" : ""}${padded.slice(0, point)}.${padded.slice(point)}${fraction}`.replace(/\.$/, "");
}

/** Intl takes decimal strings as they are; its types know numbers only. @param {string} text */
const decimal = (text) => /** @type {any} */ (text);

const WHOLE = new Intl.NumberFormat();
const COMPACT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const PERCENT = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });
const CHANGE = new Intl.NumberFormat(undefined, {
  style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero",
});

/** @param {bigint} quantity @param {number} scale */
function quantityWords(quantity, scale) {
  if (!scale) return WHOLE.format(quantity);
  const places = { minimumFractionDigits: scale, maximumFractionDigits: scale };
  return new Intl.NumberFormat(undefined, places).format(decimal(shifted(String(quantity), scale)));
}

/** Write an amount, which is exact and in the currency's smallest unit, as people do: every digit of it.
 * @param {bigint | string} amount */
function money(amount) {
  const { currency, decimals } = model.invoice;
  const places = Number(decimals);
  return new Intl.NumberFormat(undefined, {
    style: "currency", currency, minimumFractionDigits: places, maximumFractionDigits: 20,
  }).format(decimal(shifted(String(amount), places)));
}

/** Write a price's words, whose amounts are in the smallest unit, with money in them. @param {string} words */
function priceWords(words) {
  const grouped = (/** @type {string} */ text) => WHOLE.format(BigInt(text.replaceAll(",", "")));
  return words
    .replace(/up to ([\d,]+) ([\d.]+)/g, (_, reach, amount) => `up to ${grouped(reach)}: ${money(amount)}`)
    .replace(/beyond ([\d.]+)/g, (_, amount) => `beyond: ${money(amount)}`)
    .replace(/([\d.]+) flat/g, (_, amount) => `${money(amount)} fixed`)
    .replace(/^([\d.]+) per started ([\d,]+)/, (_, amount, size) => `${money(amount)} for each ${grouped(size)} begun`)
    .replace(/^([\d.]+) per unit/, (_, amount) => `${money(amount)} per unit`);
}

/** @param {string} metric */
const title = (metric) => metric.charAt(0).toUpperCase() + metric.slice(1).replaceAll("_", " ");

/** @param {string} metric */
const scaleOf = (metric) =>
  Number(model.prices.metrics.find((/** @type {any} */ one) => one.name === metric)?.scale ?? 0);

/** The period's rows: earlier days, and the hours since. */
const rows = () => [...model.days, ...model.recent];

/** @param {Iterable<Row>} some @returns {Cell | null} */
function sum(some) {
  let quantity = 0n;
  let state = STATES.length;
  for (const row of some) {
    quantity += row.quantity;
    state = Math.min(state, STATES.indexOf(row.state));
  }
  return state === STATES.length ? null : { quantity, state: STATES[state] };
}

/** @param {string} metric @param {Row[]} of */
const sumOf = (metric, of) => sum(of.filter((row) => row.metric === metric));

/** @param {string} metric @returns {Cell} */
const totalOf = (metric) => sumOf(metric, rows()) ?? { quantity: 0n, state: "posted" };

/** The metrics that are declared, and others that were used. */
function metrics() {
  const declared = model.prices.metrics.map((/** @type {any} */ one) => one.name);
  return /** @type {string[]} */ ([...new Set([...declared, ...rows().map((row) => row.metric)])]);
}

/** The metric to begin with: the first that was used. */
const busiest = () => metrics().find((metric) => totalOf(metric).quantity) ?? metrics()[0] ?? "";

/** The hours that the page shows one by one, in order of time. @param {string} span */
function hoursShown(span) {
  const [next, begin] = [dateOf(hourOf(now())).getTime() + HOUR_MS, dateOf(model.begin).getTime()];
  const one = span !== LATEST && span !== PERIOD;
  const last = one ? Math.min(next, dateOf(`${span}T00`).getTime() + DAY_MS) : next;
  const first = Math.max(begin, one ? dateOf(`${span}T00`).getTime() : next - DAY_MS);
  return Array.from({ length: Math.max(0, (last - first) / HOUR_MS) }, (_, n) => hourOf(new Date(first + n * HOUR_MS)));
}

/** @param {string} span */
const hourRows = (span) => model.hoursOf.get(span) ?? model.recent;

/** The chart's bars, in order of time. @returns {Bar[]} */
function bars() {
  if (page.span !== PERIOD) {
    const theirs = hourRows(page.span).filter((row) => row.metric === page.metric);
    return hoursShown(page.span).map((hour) => ({
      label: inWords(hour),
      short: `${hour.slice(11)}h`,
      cell: sum(theirs.filter((row) => row.period === hour)),
      before: null,
      future: false,
    }));
  }
  const [begin, end] = [dateOf(model.begin), dateOf(model.end)];
  const long = end.getTime() - begin.getTime() > MOST_DAY_BARS * DAY_MS;
  const written = long ? 7 : 10;
  const periods = buckets(begin, end, written);
  const earlier = buckets(previousBegin(begin), begin, written);
  const theirs = rows().filter((row) => row.metric === page.metric);
  const before = [...model.beforeByNow, ...model.beforeRest].filter((row) => row.metric === page.metric);
  return periods.map((period, n) => ({
    label: inWords(period),
    short: long ? inWords(period).slice(0, 3) : DAY_WORDS.format(dateOf(`${period}T00`)),
    cell: sum(theirs.filter((row) => row.period.startsWith(period))),
    before: sum(before.filter((row) => row.period.startsWith(earlier[n] ?? "none")))?.quantity ?? 0n,
    future: period > hourOf(now()).slice(0, written),
  }));
}

/** The days, or months, from one moment up to another. @param {Date} first @param {Date} end @param {number} written */
function buckets(first, end, written) {
  const found = new Set();
  for (let at = dayStart(first).getTime(); at < end.getTime(); at += DAY_MS) {
    found.add(new Date(at).toISOString().slice(0, written));
  }
  return /** @type {string[]} */ ([...found]);
}

// ------------------------------------------------------------------------------------------------------------- elements

/** @param {string} id @returns {any} */
const at = (id) => document.getElementById(id);

/** Make an element; what is no element becomes text.
 * @param {string} tag @param {Record<string, string | number>} attributes @param {(Node | string)[]} children */
function h(tag, attributes = {}, ...children) {
  return dressed(document.createElement(tag), attributes, children);
}

/** @param {string} tag @param {Record<string, string | number>} attributes @param {(Node | string)[]} children */
function s(tag, attributes = {}, ...children) {
  return dressed(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** @template {Element} E @param {E} made @param {Record<string, string | number>} attributes
 * @param {(Node | string)[]} children */
function dressed(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** Change a text only if it is another, so that nobody is told the same twice. @param {Element} where @param {string} text */
function write(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** A number that programs can read beside what people read. @param {bigint} value @param {string} words */
const data = (value, words) => h("data", { value: String(value) }, words);

/** @param {State} state */
const stateMark = (state) => h("span", { class: `state ${state}` }, title(state));

/** @param {string} caption @param {[string, string][]} columns heading and class @param {Node[]} body */
function table(caption, columns, ...body) {
  const heads = columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name));
  return h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, ...heads)), ...body);
}

/** @param {(Node | string)[]} cells the first is the row's heading @param {string} kind of the others */
const row = ([first, ...cells], kind = "number") =>
  h("tr", {}, h("th", { scope: "row" }, first), ...cells.map((cell) => h("td", { class: kind }, cell)));

// ----------------------------------------------------------------------------------------------------- showing, in turn

function show() {
  at("door").hidden = true;
  at("figures").hidden = at("acts").hidden = false;
  showHead();
  showCost();
  showMetrics();
  showSpans();
  showChart();
  showParts();
  showPrice();
  showHours();
}

function showHead() {
  const invoice = model.invoice;
  const name = invoice?.name || "Your usage";
  write(at("name"), name);
  document.title = `Usage · ${name}`;
  const plans = invoice ? `${invoice.plans.map(title).join(", ")} · ` : "Calendar month · ";
  write(at("terms"), `${plans}${inWords(model.begin)} to ${inWords(model.end)} UTC`);
  const end = tokenEnd();
  write(at("ends"), end ? `This link works until ${MOMENT_WORDS.format(end)}.` : "");
}

/** @param {Problem | null} noInvoice */
function reason(noInvoice) {
  return noInvoice?.status === 503 ? "The payment provider does not answer now." : "It cannot be worked out now.";
}

function showCost() {
  const { invoice, noInvoice } = model;
  if (!invoice) {
    const words =
      noInvoice?.status === 404
        ? ["No subscription", "Nothing is invoiced: you are subscribed to no plan. What you use is counted and shown below."]
        : ["Price not known now", `${reason(noInvoice)} Usage is shown below; the price follows by itself.`];
    at("cost").replaceChildren(h("div", { class: "card" }, h("h3", {}, words[0]), h("p", { class: "quiet" }, words[1])));
    return;
  }
  const [begin, end] = [dateOf(model.begin).getTime(), dateOf(model.end).getTime()];
  const passed = Math.min(1, (now().getTime() - begin) / (end - begin));
  const left = Math.max(0, Math.ceil((end - now().getTime()) / DAY_MS));
  const asOf = CLOCK_WORDS.format(new Date(invoice.preview.as_of));
  const stale = noInvoice ? `${reason(noInvoice)} This is the last price that was known. ` : "";
  at("cost").replaceChildren(
    card("so-far", "So far", invoice.so_far.total, [
      share(passed, "past"),
      h("p", { class: "quiet" }, `${stale}${PERCENT.format(passed)} of the period has passed, ${left} days are left`),
    ]),
    card("forecast", "Forecast", invoice.forecast.total, [
      h("p", { class: "quiet" }, `An estimate, no price: what it comes to if ${invoice.forecast.basis}`),
    ]),
    card("preview", "Next invoice, by Stripe", invoice.preview.total, [
      h("p", { class: "quiet" }, `Stripe’s own preview at ${asOf}: of the hours that are posted, some minutes behind`),
    ]),
  );
}

/** @param {string} id @param {string} name @param {bigint} amount @param {Node[]} more */
function card(id, name, amount, more) {
  return h("div", { class: `card ${id}`, id }, h("h3", {}, name), h("p", { class: "big" }, data(amount, money(amount))), ...more);
}

/** A bar of which a part is full. @param {number} part from 0 to 1 @param {string} kind */
function share(part, kind) {
  const width = Math.max(0, Math.min(100, part * 100));
  const full = s("rect", { width, height: 4, class: kind });
  const view = { viewBox: "0 0 100 4", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" };
  return s("svg", view, s("rect", { width: 100, height: 4, class: "rail" }), full);
}

function showMetrics() {
  const there = new Map([...at("metrics").children].map((one) => [one.dataset.metric, one]));
  let any = false;
  for (const metric of metrics()) {
    const button = there.get(metric) ?? metricButton(metric);
    const { quantity } = totalOf(metric);
    any ||= quantity > 0n;
    const lines = model.invoice?.so_far.lines.filter((/** @type {any} */ line) => line.metric === metric) ?? [];
    const amount = lines.reduce((/** @type {bigint} */ all, /** @type {any} */ line) => all + line.amount, 0n);
    const figure = button.querySelector("data");
    figure.value = String(quantity);
    write(figure, quantityWords(quantity, scaleOf(metric)));
    write(button.querySelector(".change"), changeWords(metric, quantity));
    write(button.querySelector(".amount"), lines.length ? money(amount) : model.invoice ? "not billed" : "");
    button.setAttribute("aria-pressed", String(metric === page.metric));
  }
  at("nothing").hidden = any;
}

/** @param {string} metric */
function metricButton(metric) {
  const button = h(
    "button",
    { type: "button", class: "metric", "data-metric": metric },
    h("span", { class: "name" }, title(metric)),
    h("data", { class: "figure" }),
    h("span", { class: "row" }, h("span", { class: "amount" }), " ", h("span", { class: "change quiet" })),
  );
  button.addEventListener("click", () => choose(metric, page.span));
  at("metrics").append(button);
  return button;
}

/** Say how much more or less it is than the previous period's usage had come to at this point.
 * @param {string} metric @param {bigint} quantity */
function changeWords(metric, quantity) {
  const byNow = sumOf(metric, model.beforeByNow)?.quantity ?? 0n;
  const whole = byNow + (sumOf(metric, model.beforeRest)?.quantity ?? 0n);
  if (!whole) return "none in the last period";
  if (!byNow) return `last period: ${COMPACT.format(Number(whole) / 10 ** scaleOf(metric))}`;
  const tenths = ((quantity - byNow) * 1000n) / byNow;
  return `${CHANGE.format(Number(tenths) / 1000)} on last period to date`;
}

function showSpans() {
  const days = buckets(dateOf(model.begin), new Date(now().getTime() + 1), 10).reverse();
  const wanted = [
    [PERIOD, "the whole period"],
    [LATEST, "the last 24 hours"],
    ...days.map((day) => [day, inWords(day)]),
  ];
  const select = at("span");
  if (select.options.length !== wanted.length || select.options[2]?.value !== wanted[2]?.[0]) {
    select.replaceChildren(...wanted.map(([value, words]) => h("option", { value }, words)));
    if (!wanted.some(([value]) => value === page.span)) page.span = LATEST;
  }
  select.value = page.span;
}

function showChart() {
  const shown = bars();
  const scale = scaleOf(page.metric);
  const whole = page.span === PERIOD;
  const unit = whole ? (shown[0]?.label.length && shown.length && /\d{4}$/.test(shown[0].label) ? "month" : "day") : "hour";
  write(at("chart-title"), `${title(page.metric)} by ${unit}`);
  const compared = whole && shown.some((bar) => bar.before);
  const top = shown.reduce((best, bar) => (bar.cell && bar.cell.quantity > (best?.cell?.quantity ?? 0n) ? bar : best), /** @type {Bar | null} */ (null));
  const words = top?.cell ? `Most: ${barWords(top, scale)}` : "No usage in this time";
  write(at("readout"), words);
  at("readout").dataset.words = words;
  at("chart").replaceChildren(drawn(shown, scale, compared, words));
  const legend = [...STATES.filter((state) => shown.some((bar) => bar.cell?.quantity && bar.cell.state === state))].map((state) =>
    h("li", {}, s("svg", { class: "key", viewBox: "0 0 12 12", "aria-hidden": "true" }, s("rect", { class: `bar ${state}`, x: 1, y: 1, width: 10, height: 10 })), title(state)),
  );
  if (compared) legend.push(h("li", {}, s("svg", { class: "key", viewBox: "0 0 12 12", "aria-hidden": "true" }, s("line", { class: "before", x1: 0, x2: 12, y1: 6, y2: 6 })), "Previous period"));
  at("legend").replaceChildren(...legend);
  const columns = /** @type {[string, string][]} */ ([[title(unit), ""], [title(page.metric), "number"], ["State", ""]]);
  if (whole) columns.push(["Previous period", "number"]);
  const body = shown.filter((bar) => !bar.future).map((bar) => {
    const cells = [data(bar.cell?.quantity ?? 0n, quantityWords(bar.cell?.quantity ?? 0n, scale)), bar.cell ? stateMark(bar.cell.state) : "–"];
    if (whole) cells.push(quantityWords(bar.before ?? 0n, scale));
    return row([bar.label, ...cells]);
  });
  at("chart-rows").replaceChildren(table(`${title(page.metric)} by ${unit} (UTC)`, columns, h("tbody", {}, ...body)));
}

/** @param {Bar} bar @param {number} scale */
function barWords(bar, scale) {
  const before = bar.before ? ` · previous period ${quantityWords(bar.before, scale)}` : "";
  const found = bar.cell ? `${quantityWords(bar.cell.quantity, scale)}, ${bar.cell.state}` : bar.future ? "still to come" : "none";
  return `${bar.label}: ${found}${before}`;
}

/** Draw bars as wide as there is room. @param {Bar[]} shown @param {number} scale @param {boolean} compared
 * @param {string} words */
function drawn(shown, scale, compared, words) {
  const width = Math.max(240, at("chart").clientWidth);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const [height, left, bottom, upper] = [rem * 14, rem * 3.2, rem * 1.8, rem * 0.8];
  const unit = 10 ** scale;
  const most = Math.max(...shown.map((bar) => Number(bar.cell?.quantity ?? 0)), ...shown.map((bar) => (compared ? Number(bar.before ?? 0) : 0)), 0) / unit;
  const step = niceStep(most, scale ? 0 : 1);
  const ceiling = Math.max(step, Math.ceil(most / step) * step);
  const y = (/** @type {number} */ value) => height - bottom - (value / ceiling) * (height - bottom - upper);
  const slot = (width - left) / Math.max(1, shown.length);
  const thin = Math.max(1, Math.min(rem * 3, slot * 0.72));
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${at("chart-title").textContent}. ${words}. The table below has every figure.` });
  for (let value = 0; value <= ceiling + step / 2; value += step) {
    svg.append(s("line", { class: value ? "grid" : "axis", x1: left, x2: width, y1: y(value), y2: y(value) }));
    svg.append(s("text", { class: "tick end", x: left - rem * 0.5, y: y(value) + rem * 0.25 }, COMPACT.format(value)));
  }
  const each = Math.max(1, Math.ceil((rem * 3.4) / slot));
  shown.forEach((bar, n) => {
    const x = left + n * slot + (slot - thin) / 2;
    const group = s("g", { class: "slot" });
    group.append(s("rect", { class: "reach", x: left + n * slot, y: upper, width: slot, height: height - bottom - upper }));
    const value = Number(bar.cell?.quantity ?? 0) / unit;
    if (bar.cell && value) {
      const tall = Math.max(1.5, y(0) - y(value));
      group.append(s("rect", { class: `bar ${bar.cell.state}`, x, y: y(0) - tall, width: thin, height: tall, rx: Math.min(2, thin / 4) }));
    }
    if (compared && bar.before) {
      const level = y(Number(bar.before) / unit);
      for (const kind of ["halo", "before"]) group.append(s("line", { class: kind, x1: x, x2: x + thin, y1: level, y2: level }));
    }
    if (n % each === 0 && left + n * slot + rem * 2 < width) {
      svg.append(s("text", { class: "tick", x: left + (n + 0.5) * slot, y: height - rem * 0.5 }, bar.short));
    }
    group.addEventListener("pointerenter", () => write(at("readout"), barWords(bar, scale)));
    svg.append(group);
  });
  svg.addEventListener("pointerleave", () => write(at("readout"), at("readout").dataset.words));
  return svg;
}

/** Return a step of 1, 2 or 5 times a power of ten that makes about four lines. @param {number} most @param {number} least */
function niceStep(most, least) {
  const rough = most / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return Math.max(least, (([1, 2, 5].find((one) => one * power >= rough) ?? 10) * power));
}

function showParts() {
  for (const slot of ["by-key", "by-dimension"]) {
    const found = model.parts[slot];
    const panel = at(slot);
    panel.hidden = !found;
    if (!found) continue;
    const [metric, name] = found.name.split(" ");
    const scale = scaleOf(metric);
    /** @type {Map<string, bigint>} */
    const added = new Map();
    for (const { value, quantity } of found.rows) added.set(value ?? "", (added.get(value ?? "") ?? 0n) + quantity);
    const ranked = [...added].sort(([, one], [, other]) => (one < other ? 1 : one > other ? -1 : 0));
    const total = ranked.reduce((all, [, quantity]) => all + quantity, 0n);
    const rest = ranked.slice(MOST_PARTS).reduce((all, [, quantity]) => all + quantity, 0n);
    write(panel.querySelector("h3"), `${title(metric)} by ${title(name).toLowerCase()}`);
    write(panel.querySelector(".quiet"), `at ${CLOCK_WORDS.format(found.at)}`);
    const lines = ranked.slice(0, MOST_PARTS).map(([value, quantity]) =>
      part(value ? h("code", {}, value) : h("span", { class: "quiet" }, `of no single ${title(name).toLowerCase()}`), quantity, total, scale),
    );
    if (rest) lines.push(part(h("span", { class: "quiet" }, `${ranked.length - MOST_PARTS} others`), rest, total, scale));
    const columns = /** @type {[string, string][]} */ ([[title(name), ""], [title(metric), "number"], ["Share", "number"]]);
    panel.querySelector(".parts").replaceChildren(
      lines.length
        ? table(`${title(metric)} by ${name}`, columns, h("tbody", {}, ...lines))
        : h("p", { class: "empty" }, "Nothing yet in this period."),
    );
  }
}

/** @param {Node} name @param {bigint} quantity @param {bigint} total @param {number} scale */
function part(name, quantity, total, scale) {
  const ratio = total ? Number(quantity) / Number(total) : 0;
  const cell = h("span", { class: "part" }, name, share(ratio, "of"));
  const words = ratio > 0 && ratio < 0.001 ? `< ${PERCENT.format(0.001)}` : PERCENT.format(ratio);
  return row([cell, data(quantity, quantityWords(quantity, scale)), words]);
}

function showPrice() {
  const { invoice } = model;
  at("price").hidden = !invoice;
  if (!invoice) return;
  const unit = money("1");
  write(at("price-note"), `Quantity × unit price is the exact amount; each line is rounded to ${unit}, a half upwards, and the total is the sum of the lines.`);
  const forecasts = new Map(invoice.forecast.lines.map((/** @type {any} */ line) => [line.price, line]));
  const bodies = invoice.so_far.lines.map((/** @type {any} */ line) => {
    const scale = Number(line.scale);
    const forecast = forecasts.get(line.price);
    const head = h(
      "tr",
      { class: "line" },
      h("th", { scope: "rowgroup", colspan: 4 }, h("span", { class: "words" }, line.title), h("span", { class: "words quiet" }, priceWords(line.in_words)), ...(scale ? [h("span", { class: "words quiet" }, `${quantityWords(line.quantity, scale)} in all; units below are of ${shifted("1", scale)}`)] : [])),
      h("td", { class: "number" }, data(line.amount, money(line.amount))),
      h("td", { class: "number quiet" }, forecast ? money(forecast.amount) : ""),
    );
    return h("tbody", { "data-price": line.price }, head, ...line.steps.map((/** @type {any} */ step) => stepRow(step, line.kind)));
  });
  const columns = /** @type {[string, string][]} */ ([["Units", ""], ["Quantity", "number"], ["Unit price", "number"], ["Exact", "number"], ["Amount", "number"], ["Forecast", "number forecast-head"]]);
  const foot = h(
    "tfoot",
    {},
    h("tr", {}, h("th", { scope: "row", colspan: 4 }, "Total"), h("td", { class: "number" }, data(invoice.so_far.total, money(invoice.so_far.total))), h("td", { class: "number quiet" }, money(invoice.forecast.total))),
  );
  at("price-lines").replaceChildren(table("How the price comes about, line by line", columns, ...bodies, foot));
}

/** @param {any} step @param {string} kind */
function stepRow(step, kind) {
  const none = step.first !== null && step.last < step.first;
  const units = step.first === null ? "fixed" : none ? "none yet" : `${WHOLE.format(step.first)} – ${WHOLE.format(step.last)}`;
  const things = kind === "package" ? ` ${step.quantity === 1n ? "package" : "packages"}` : "";
  const cells = [`${WHOLE.format(step.quantity)}${things}`, `× ${money(step.unit_amount)}`, `= ${money(step.exact)}`, money(step.amount), ""];
  return row([units, ...cells]);
}

function showHours() {
  const span = page.span === PERIOD ? LATEST : page.span;
  const shown = hoursShown(span).reverse();
  const names = metrics();
  const theirs = hourRows(span);
  write(at("hours-note"), `${span === LATEST ? "The last 24 hours of this period" : inWords(span)}, latest first. Choose another day above the chart.`);
  const body = shown.map((hour) => {
    const mine = theirs.filter((one) => one.period === hour);
    const all = sum(mine);
    const line = row([inWords(hour), ...names.map((metric) => {
      const cell = sumOf(metric, mine);
      return cell ? data(cell.quantity, quantityWords(cell.quantity, scaleOf(metric))) : "–";
    })]);
    line.children[0].after(h("td", {}, all ? stateMark(all.state) : h("span", { class: "quiet" }, "no usage")));
    return line;
  });
  const columns = /** @type {[string, string][]} */ ([["Hour (UTC)", ""], ["State", ""], ...names.map((metric) => [title(metric), "number"])]);
  at("hours").replaceChildren(table("Hours, their state and usage", columns, h("tbody", {}, ...body)));
}

// -------------------------------------------------------------------------------------------------- how the page stands

/** Tell a screen reader, once. @param {string} words */
const say = (words) => write(at("said"), words);

function well() {
  if (page.failures) say("The figures are up to date again.");
  page.failures = 0;
  at("trouble").hidden = true;
  live(page.paused ? "paused" : "live");
}

/** @param {"live" | "paused" | "stale"} state */
function live(state) {
  at("live").dataset.state = state;
  const words = { live: "Live", paused: "Paused", stale: "Not up to date" }[state];
  write(at("live-text"), state === "stale" ? words : `${words} · ${CLOCK_WORDS.format(now())} UTC`);
}

/** @param {Problem} problem @param {number} wait */
function trouble(problem, wait) {
  const shown = !at("figures").hidden;
  const reason = problem.status === 0 ? problem.message : problem.status === 429 ? "Too many requests at once." : `The server has a problem${problem.message ? `: ${problem.message}` : ""}.`;
  const words = `${reason} ${shown ? "The figures below are the last that were read. " : ""}It is tried again by itself, in ${WHOLE.format(Math.round(wait / 1000))} s.`;
  at("trouble").hidden = false;
  write(at("trouble-text"), words);
  if (page.failures === 1) say(`${reason} It is tried again by itself.`);
  live("stale");
  if (!shown) write(at("terms"), "");
}

/** Show what to do instead of figures. @param {string} head @param {string} text @param {string} detail */
function door(head, text, detail = "") {
  at("figures").hidden = at("acts").hidden = at("trouble").hidden = true;
  at("door").hidden = false;
  write(at("name"), "Usage");
  write(at("terms"), "");
  write(at("ends"), "");
  write(at("door-title"), head);
  write(at("door-text"), text);
  write(at("door-detail"), detail);
  say(`${head}. ${text}`);
}

/** @param {string} detail */
function ended(detail) {
  const end = tokenEnd();
  page.token = "";
  answers.clear();
  store((storage) => storage.removeItem(TOKEN));
  const over = end && end <= now();
  door(
    over ? "This link has ended" : "This link does not work",
    `${over ? `It worked until ${MOMENT_WORDS.format(end)} UTC. ` : ""}Ask whoever bills you for a new link, and open that. Your usage goes on being counted.`,
    detail,
  );
}

/** @param {string} metric @param {string} span */
async function choose(metric, span) {
  [page.metric, page.span] = [metric, span];
  const day = span !== LATEST && span !== PERIOD && `${span}T00` < model.recentFrom && !model.hoursOf.has(span);
  try {
    if (day) model.hoursOf.set(span, await readDay(span));
    await readParts();
    show();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    turn();
  }
}

async function download() {
  const by = at("csv-by").value;
  at("csv").disabled = true;
  try {
    const query = new URLSearchParams({ from: model.begin, by });
    const response = await call(`v1/usage?${query}`, { Accept: "text/csv" });
    const name = /filename="([^"]+)"/.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "usage.csv";
    const address = URL.createObjectURL(await response.blob());
    const link = h("a", { href: address, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), PATIENCE_MS);
    say(`${name} was downloaded.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return ended(error.message);
    say("The file could not be read.");
    trouble(error, POLL_MS);
  } finally {
    at("csv").disabled = false;
  }
}

function pause() {
  page.paused = !page.paused;
  at("pause").setAttribute("aria-pressed", String(page.paused));
  live(page.paused ? "paused" : "live");
  clearTimeout(page.timer);
  if (!page.paused) turn();
}

function resume() {
  if (!document.hidden && !page.paused) turn();
}

function open() {
  takeToken();
  if (!page.token) {
    door("Open this page with your link", "Your usage is shown to whoever has a link to it. Ask whoever bills you for one: it works for a day at most.");
    return;
  }
  turn();
}

at("pause").addEventListener("click", pause);
at("csv").addEventListener("click", download);
at("again").addEventListener("click", turn);
at("span").addEventListener("change", () => choose(page.metric, at("span").value));
document.addEventListener("visibilitychange", resume);
addEventListener("online", resume);
addEventListener("hashchange", () => location.hash.length > 1 && location.hash !== "#main" && (takeToken(), location.reload()));
let drawnFor = 0;
new ResizeObserver(([entry]) => {
  const width = Math.round(entry.contentRect.width);
  if (width && width !== drawnFor && model.prices) requestAnimationFrame(showChart);
  drawnFor = width;
}).observe(at("chart"));
open();
