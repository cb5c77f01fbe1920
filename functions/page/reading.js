/**
 * What is asked of the API, and when: all once a minute, what moves every few seconds, and what somebody looks at.
 *
 * @import { Row } from "./api.js"
 * @import { Model } from "./figures.js"
 */

import { Problem, invoice, now, prices, standing, usage, usageFile } from "./api.js";
import {
  DAY_MS, HOUR_MS, PERIOD, LATEST, dateOf, dayStart, hourOf, period, pieces, previousBegin, totalOf,
} from "./figures.js";

const ALL_MS = 60_000; // everything
const PARTS_MS = 15_000; // by key and by dimension, if the metric has moved
const SETTLED_MS = 3_600_000; // what no late request changes any more
const LATE_MS = 62 * DAY_MS; // how late a request may come
const MONTH_HOURS = 744n; // a piece never reaches over the end of a month
const MOST_TRIES = 30; // while a long period is added up, a piece by each

/** What the API said last. @type {Model} */
export const model = {
  prices: { plans: [], metrics: [], limits: { hours: 24n, hours_by_key: 24n } },
  invoice: null,
  noInvoice: null,
  begin: "",
  end: "",
  recentFrom: "",
  days: [],
  recent: [],
  beforeByNow: [],
  beforeRest: [],
  hoursOf: new Map(),
  parts: { key: null, dimension: null },
  standing: null,
  noStanding: null,
};

let allAt = -Infinity;

/** Whether there are limits, as far as the API has said. */
let isLimited = true;

/** Whether a month was too large for one answer: then less is asked for at once. */
let large = false;

/** What was read of pieces that have passed, and when. @type {Map<string, {rows: Row[], at: number}>} */
const passed = new Map();

/** Read what is due. A Problem leaves what was read before. */
export async function readDue() {
  const began = performance.now();
  if (began - allAt >= ALL_MS || hourOf(now()) >= model.end) {
    await Promise.all([readInvoice(), readStanding()]); // the period of the invoice is what the rest is about
    await readAll();
    allAt = began;
  } else {
    const [recent] = await Promise.all([usage({ from: model.recentFrom, by: "hour" }), readInvoice(), readStanding()]);
    model.recent = recent;
  }
}

/** Without an invoice, whatever went wrong with it, the usage is shown all the same; a link that ended ends both. */
async function readInvoice() {
  try {
    model.invoice = await wholeInvoice();
    model.noInvoice = null;
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    if (error.status === 404) model.invoice = null; // otherwise the last one stays, and says of when it is
    model.noInvoice = error;
  }
}

/** Read how the customer stands; where there are no limits, this once. What goes wrong with it stops nothing else. */
async function readStanding() {
  if (!isLimited) return;
  try {
    model.standing = await standing();
    model.noStanding = null;
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    isLimited = error.status !== 404;
    model.noStanding = error; // what was known stays, and says that it is old
  }
}

/** Ask again while a long period is being added up: then the API wants to be asked again at once. */
async function wholeInvoice() {
  for (let tries = 1; ; tries += 1) {
    try {
      return await invoice();
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 503) throw error;
      if (error.waitMs !== 1000 || tries === MOST_TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

/** Read all that is shown of the period and of the one before, but for the parts. */
async function readAll() {
  model.prices = await prices(); // whose limits move with a customer's keys
  const today = now();
  [model.begin, model.end] = period(model.invoice, today);
  const begin = dateOf(model.begin);
  const recent = new Date(Math.max(begin.getTime(), dayStart(new Date(today.getTime() - DAY_MS)).getTime()));
  const earlier = previousBegin(begin, model.invoice);
  const elapsed = dateOf(hourOf(today)).getTime() - begin.getTime();
  const byNow = new Date(Math.min(begin.getTime(), earlier.getTime() + elapsed));
  model.recentFrom = hourOf(recent);
  const looked = [...model.hoursOf.keys()];
  let hours;
  [model.days, model.recent, model.beforeByNow, model.beforeRest, ...hours] = await Promise.all([
    readDays(begin, recent),
    usage({ from: model.recentFrom, by: "hour" }),
    readDays(earlier, byNow),
    readDays(byNow, begin),
    ...looked.map(hoursOf),
  ]);
  model.hoursOf = new Map(looked.map((day, n) => [day, hours[n]]));
}

/** Read usage by day; of no time at all there is none. @param {Date} from @param {Date} to @returns {Promise<Row[]>} */
const readDays = (from, to) => inPieces((most) => readPieces(from, to, { by: "day" }, most));

/** Read in pieces of a month at most, or, where that is too large, of what is always answered.
 * @template T @param {(most: bigint) => Promise<T>} read told how many hours a piece may have */
async function inPieces(read) {
  if (!large) {
    try {
      return await read(MONTH_HOURS);
    } catch (error) {
      if (!(error instanceof Problem) || error.status !== 400) throw error;
      large = true;
    }
  }
  return read(model.prices.limits.hours);
}

/** Read usage in pieces, each of which the API answers, one after the other. What has passed is not read every time.
 * @param {Date} from @param {Date} to @param {Record<string, string>} query @param {bigint} most hours of a piece */
async function readPieces(from, to, query, most) {
  /** @type {Row[]} */
  const rows = [];
  for (const [first, end] of pieces(from, to, Number(most))) {
    const asked = { from: hourOf(first), to: hourOf(end), ...query };
    const name = JSON.stringify(asked);
    const known = passed.get(name);
    const kept = now().getTime() - end.getTime() > LATE_MS ? SETTLED_MS : ALL_MS;
    if (known && performance.now() - known.at < kept) {
      rows.push(...known.rows);
      continue;
    }
    const read = await usage(asked);
    if (hourOf(end) <= model.recentFrom) passed.set(name, { rows: read, at: performance.now() });
    rows.push(...read);
  }
  return rows;
}

/** Read the period's usage so far as a CSV file, whose lines are those of its pieces. @param {string} by */
export const readFile = (by) => inPieces((most) => readFileOf(by, most));

/** @param {string} by @param {bigint} most hours of a piece */
async function readFileOf(by, most) {
  const end = Math.min(dateOf(model.end).getTime(), dateOf(hourOf(now())).getTime() + HOUR_MS);
  let [name, content] = ["", ""];
  for (const [first, until] of pieces(dateOf(model.begin), new Date(end), Number(most))) {
    const piece = await usageFile({ from: hourOf(first), to: hourOf(until), by });
    content += content ? piece.content.slice(piece.content.indexOf("\n") + 1) : piece.content;
    name = name ? name.replace(/\d{4}-\d\d-\d\dT\d\d\.csv$/, `${hourOf(until)}.csv`) : piece.name;
  }
  return { name, content };
}

/** Read the hours of a day, as far as they are of the period. @param {string} day */
function hoursOf(day) {
  const first = `${day}T00` > model.begin ? `${day}T00` : model.begin;
  return usage({ from: first, to: hourOf(new Date(dateOf(`${day}T00`).getTime() + DAY_MS)), by: "hour" });
}

/** Read the hours of what is chosen, if it is an earlier day that was not looked at. @param {string} span */
export async function readSpan(span) {
  const earlier = span !== LATEST && span !== PERIOD && `${span}T00` < model.recentFrom;
  if (earlier && !model.hoursOf.has(span)) model.hoursOf.set(span, await hoursOf(span));
}

/** Read a metric by key and by its dimension, if it has moved since. @param {string} metric */
export async function readParts(metric) {
  const dimension = model.prices.metrics.find(({ name }) => name === metric)?.dimension;
  await Promise.all([readSplit("key", metric, "key"), readSplit("dimension", metric, dimension ?? "")]);
}

/** Read a metric's usage by a dimension into its slot.
 * @param {"key" | "dimension"} slot @param {string} metric @param {string} dimension empty if it has none */
async function readSplit(slot, metric, dimension) {
  if (!dimension) {
    model.parts[slot] = null;
    return;
  }
  const total = totalOf(model, metric).quantity;
  const known = model.parts[slot];
  const age = now().getTime() - (known?.at ?? 0);
  const same = known?.metric === metric && known.dimension === dimension;
  if (same && (known.total === total || age < PARTS_MS) && age < ALL_MS) return;
  const end = new Date(Math.min(dateOf(model.end).getTime(), dayStart(now()).getTime() + DAY_MS));
  /** @param {bigint} most */
  const read = (most) => readPieces(dateOf(model.begin), end, { by: "month", metric, dimension }, most);
  const rows = await (slot === "key" ? read(model.prices.limits.hours_by_key) : inPieces(read));
  model.parts[slot] = { metric, dimension, total, rows, at: now().getTime() };
}
