/**
 * What is asked of the API, and when: all once a minute, what moves every few seconds, and what somebody looks at.
 *
 * @import { Row } from "./api.js"
 * @import { Model } from "./figures.js"
 */

import { Problem, invoice, now, prices, usage } from "./api.js";
import { DAY_MS, PERIOD, LATEST, dateOf, dayStart, hourOf, period, previousBegin, totalOf } from "./figures.js";

const ALL_MS = 60_000; // everything
const PARTS_MS = 15_000; // by key and by dimension, if the metric has moved

/** What the API said last. @type {Model} */
export const model = {
  prices: { plans: [], metrics: [] },
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
};

let allAt = -Infinity;

/** Read what is due. A Problem leaves what was read before. */
export async function readDue() {
  const began = performance.now();
  if (began - allAt >= ALL_MS || hourOf(now()) >= model.end) {
    await readInvoice(); // whose period the rest is about
    await readAll();
    allAt = began;
  } else {
    const [recent] = await Promise.all([usage({ from: model.recentFrom, by: "hour" }), readInvoice()]);
    model.recent = recent;
  }
}

/** Without an invoice, whatever went wrong with it, the usage is shown all the same; a link that ended ends both. */
async function readInvoice() {
  try {
    model.invoice = await invoice();
    model.noInvoice = null;
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    if (error.status === 404) model.invoice = null; // otherwise the last one stays, and says of when it is
    model.noInvoice = error;
  }
}

/** Read all that is shown of the period and of the one before, but for the parts. */
async function readAll() {
  if (!model.prices.metrics.length) model.prices = await prices();
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
const readDays = async (from, to) =>
  from < to ? usage({ from: hourOf(from), to: hourOf(to), by: "day" }) : [];

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
  const rows = await usage({ from: model.begin, by: "month", metric, dimension });
  model.parts[slot] = { metric, dimension, total, rows, at: now().getTime() };
}
