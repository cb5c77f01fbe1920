/**
 * What the figures are: times, sums, splits and bars. Nothing is asked or shown here.
 *
 * What was read is an argument, and so is the present moment. All times are UTC.
 *
 * @import { Invoice, PastInvoices, Prices, Problem, Row, Standing, State, Unit } from "./api.js"
 *
 * What the API said last; null is not read yet. `begin` and `end` are of the period, as hours: 2026-11-22T05. `days`
 * reach up to `recentFrom`, where the hours of `recent` begin. `before` is the previous period, `byNow` as far as this
 * one has come. `hoursOf` are the hours of earlier days that were looked at. `missing` is what was not answered when it
 * was last asked for, and why: by the names of WHAT, or a day.
 * @typedef {{prices: Prices, invoice: Invoice | null, begin: string, end: string, recentFrom: string,
 *   days: Row[] | null, recent: Row[] | null, before: {byNow: Row[], rest: Row[]} | null, hoursOf: Map<string, Row[]>,
 *   parts: Map<string, Parts>, standing: Standing | null, invoices: PastInvoices | null,
 *   missing: Map<string, Problem>}} Model
 *
 * A metric by the values of a dimension, and where that is shown; of the period, or of a time: a month, day or hour.
 * @typedef {{slot: string, metric: string, dimension: string, time: string}} Split
 *
 * What was read of it; `total` is what the metric had come to, `at` the moment of it. `until` is the hour up to which it
 * was read so far, or empty once it was read whole.
 * @typedef {Split & {total: bigint, rows: Row[], at: number, until: string}} Parts
 *
 * What is looked at: a metric, and a day, LATEST or PERIOD; `at` is the time whose split is asked for, or empty.
 * @typedef {{metric: string, span: string, at: string}} Choice
 *
 * @typedef {{quantity: bigint, state: State}} Cell
 * @typedef {{time: string, label: string, short: string, cell: Cell | null, before: bigint | null, future: boolean}} Bar
 * @typedef {{unit: Unit, bars: Bar[]}} Series
 */

import { COMPACT, quantityWords, title } from "./words.js";

export const HOUR_MS = 3_600_000;
export const DAY_MS = 24 * HOUR_MS;
export const LATEST = "latest";
export const PERIOD = "period";
export const STATES = /** @type {State[]} */ (["counting", "closed", "posted"]); // least settled first
const MOST_DAY_BARS = 62; // a longer period is shown by month

/** What may be missing, in words; what is missing of the price and of limits is said where they stand. */
const WHAT = new Map([
  ["prices", "the list of what is measured"],
  ["days", "the usage of earlier days"],
  ["recent", "the usage of the last hours"],
  ["before", "the previous period"],
  ["key", "the usage by key"],
  ["dimension", "the usage by value"],
]);

// --------------------------------------------------------------------------------------------------------------- times

/** Write the hour that a moment lies in: 2026-11-22T05. @param {Date} date */
export const hourOf = (date) => date.toISOString().slice(0, 13);

/** Return when an hour begins. @param {string} hour */
export const dateOf = (hour) => new Date(`${hour}:00:00Z`);

/** Return when the day began. @param {Date} date */
export const dayStart = (date) => new Date(Math.floor(date.getTime() / DAY_MS) * DAY_MS);

/** Return the first hour of the period and the one after it: the subscription's, or this calendar month's.
 * @param {Invoice | null} invoice @param {Date} now @returns {[string, string]} */
export function period(invoice, now) {
  if (invoice) return [invoice.period.from, invoice.period.to];
  const [year, month] = [now.getUTCFullYear(), now.getUTCMonth()];
  return [hourOf(new Date(Date.UTC(year, month, 1))), hourOf(new Date(Date.UTC(year, month + 1, 1)))];
}

/** Return when the previous period began: an interval of the prices earlier, on the month's last day if it is shorter.
 * @param {Date} begin @param {Invoice | null} invoice */
export function previousBegin(begin, invoice) {
  const interval = invoice?.so_far.lines[0]?.terms.interval ?? "month";
  if (interval === "day") return new Date(begin.getTime() - DAY_MS);
  if (interval === "week") return new Date(begin.getTime() - 7 * DAY_MS);
  const previous = new Date(begin);
  previous.setUTCMonth(begin.getUTCMonth() - (interval === "year" ? 12 : 1));
  if (previous.getUTCDate() !== begin.getUTCDate()) previous.setUTCDate(0);
  return previous;
}

/** The days, or months, from one moment up to another. @param {Date} first @param {Date} end @param {Unit} unit */
function buckets(first, end, unit) {
  /** @type {Set<string>} */
  const written = new Set();
  for (let time = dayStart(first).getTime(); time < end.getTime(); time += DAY_MS) {
    written.add(new Date(time).toISOString().slice(0, unit === "month" ? 7 : 10));
  }
  return [...written];
}

/** Cut a time into pieces of whole days, none longer than so many hours, none of two months: so that they stay the same
 * while time passes. @param {Date} first @param {Date} end @param {number} most */
export function pieces(first, end, most) {
  const longest = Math.max(1, Math.floor(most / 24)) * DAY_MS;
  /** @type {[Date, Date][]} */
  const cut = [];
  for (let begin = first; begin < end; ) {
    const month = Date.UTC(begin.getUTCFullYear(), begin.getUTCMonth() + 1, 1);
    const until = new Date(Math.min(end.getTime(), month, dayStart(begin).getTime() + longest));
    cut.push([begin, until]);
    begin = until;
  }
  return cut;
}

/** What the chart may show: the period, its last 24 hours, and each of its days, the latest first.
 * @param {Model} model @param {Date} now */
export const spans = (model, now) =>
  [PERIOD, LATEST, ...buckets(dateOf(model.begin), new Date(now.getTime() + 1), "day").reverse()];

/** What to show first: of a period that has just begun, its hours. @param {Model} model @param {Date} now */
export const firstSpan = (model, now) =>
  dateOf(hourOf(now)).getTime() - dateOf(model.begin).getTime() < 2 * DAY_MS ? LATEST : PERIOD;

/** Return when a time begins and ends that is written 2026-11, 2026-11-22 or 2026-11-22T05, as far as it is of the
 * period; nothing if it is of no period, or no time.
 * @param {Model} model @param {string} time @returns {[Date, Date] | null} */
export function reach({ begin, end }, time) {
  const first = dateOf(time + { 7: "-01T00", 10: "T00", 13: "" }[time.length]);
  if (Number.isNaN(first.getTime())) return null;
  const month = Date.UTC(first.getUTCFullYear(), first.getUTCMonth() + 1, 1);
  const last = time.length === 7 ? month : first.getTime() + (time.length === 10 ? DAY_MS : HOUR_MS);
  const from = Math.max(first.getTime(), dateOf(begin).getTime());
  const until = Math.min(last, dateOf(end).getTime());
  return from < until ? [new Date(from), new Date(until)] : null;
}

/** How far the period has come, from 0 to 1, and how many days are left. @param {Model} model @param {Date} now */
export function progress(model, now) {
  const [begin, end] = [dateOf(model.begin).getTime(), dateOf(model.end).getTime()];
  const passed = Math.min(1, (now.getTime() - begin) / (end - begin));
  return { passed, left: Math.max(0, Math.ceil((end - now.getTime()) / DAY_MS)) };
}

/** Say if so little of the period has passed that a forecast may be far off. @param {number} passed from 0 to 1 */
export const isEarly = (passed) => passed < 0.1;

const DAY_WORDS = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const MONTH_WORDS = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric", timeZone: "UTC" });
const WEEKDAY_WORDS = new Intl.DateTimeFormat("en-GB", {
  weekday: "short", day: "numeric", month: "short", timeZone: "UTC",
});
export const MOMENT_WORDS = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: "UTC",
});
export const DATE_WORDS = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", year: "numeric", timeZone: "UTC",
});
export const CLOCK_WORDS = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: "UTC",
});

/** Write a period as people do. @param {string} written 2026-11, 2026-11-22 or 2026-11-22T05 */
export function inWords(written) {
  if (written.length === 7) return MONTH_WORDS.format(dateOf(`${written}-01T00`));
  if (written.length === 10) return WEEKDAY_WORDS.format(dateOf(`${written}T00`));
  return `${DAY_WORDS.format(dateOf(written))}, ${written.slice(11)}:00`;
}

const CHANGE = new Intl.NumberFormat(undefined, {
  style: "percent", maximumFractionDigits: 1, signDisplay: "exceptZero",
});

// ---------------------------------------------------------------------------------------------------------------- sums

/** How many decimals a metric's quantities have. @param {Model} model @param {string} metric */
export const scaleOf = (model, metric) =>
  Number((declared(model, metric) ?? rows(model).find((row) => row.metric === metric))?.scale ?? 0);

/** @param {Model} model @param {string} metric */
const declared = (model, metric) => model.prices.metrics.find(({ name }) => name === metric);

/** What a metric is split by, or nothing. @param {Model} model @param {string} metric */
export const dimensionOf = (model, metric) => declared(model, metric)?.dimension ?? "";

/** What a metric is called. @param {Model} model @param {string} metric */
export const titleOf = (model, metric) => declared(model, metric)?.title ?? title(metric);

/** What a metric's quantities are of, or nothing. @param {Model} model @param {string} metric */
export const unitOf = (model, metric) => declared(model, metric)?.unit ?? "";

/** What a metric is called above its quantities: with their unit, unless its name has that already.
 * @param {Model} model @param {string} metric */
export function headOf(model, metric) {
  const [name, unit] = [titleOf(model, metric), unitOf(model, metric)];
  return !unit || name.toLowerCase().includes(unit.toLowerCase()) ? name : `${name} (${unit})`;
}

/** Write a metric's quantity with its unit: every digit of it.
 * @param {Model} model @param {string} metric @param {bigint} quantity */
export const measureWords = (model, metric, quantity) =>
  `${quantityWords(quantity, scaleOf(model, metric))} ${unitOf(model, metric)}`.trimEnd();

/** The period's rows, as far as they were read: earlier days, and the hours since. @param {Model} model */
const rows = (model) =>
  [...(model.days ?? []), ...(model.recent ?? []).filter(({ period }) => period >= model.recentFrom)];

/** Say if all the usage was read that a span is about. @param {Model} model @param {string} span */
export function isKnown({ days, recent, recentFrom, hoursOf }, span) {
  if (span === PERIOD) return days !== null && recent !== null;
  return span === LATEST || `${span}T00` >= recentFrom ? recent !== null : hoursOf.has(span);
}

/** Name what is missing, but for what says so itself. @param {Model} model */
export const missingWords = ({ missing }) =>
  [...missing.keys()].filter((name) => WHAT.has(name) || /^\d/.test(name))
    .map((name) => WHAT.get(name) ?? `the hours of ${inWords(name)}`).join(", ");

/** Add rows up; the sum is as settled as the least settled of them. @param {Iterable<Row>} added @returns {Cell | null} */
export function sum(added) {
  let quantity = 0n;
  let state = STATES.length;
  for (const row of added) {
    quantity += row.quantity;
    state = Math.min(state, STATES.indexOf(row.state));
  }
  return state === STATES.length ? null : { quantity, state: STATES[state] };
}

/** Add up the rows of a metric. @param {string} metric @param {Row[]} of */
export const sumOf = (metric, of) => sum(of.filter((row) => row.metric === metric));

/** What was used of a metric in the period. @param {Model} model @param {string} metric @returns {Cell} */
export const totalOf = (model, metric) => sumOf(metric, rows(model)) ?? { quantity: 0n, state: "posted" };

/** The metrics that are declared, and others that were used. @param {Model} model */
export const metrics = (model) =>
  [...new Set([...model.prices.metrics.map(({ name }) => name), ...rows(model).map(({ metric }) => metric)])];

/** The metric to begin with: the first that was used. @param {Model} model */
export const busiest = (model) =>
  metrics(model).find((metric) => totalOf(model, metric).quantity) ?? metrics(model)[0] ?? "";

/** Say how much more or less it is than the previous period's usage had come to at this point.
 * @param {Model} model @param {string} metric @param {bigint} quantity */
export function changeWords(model, metric, quantity) {
  if (!model.before) return model.missing.has("before") ? "last period: not read now" : "";
  const byNow = sumOf(metric, model.before.byNow)?.quantity ?? 0n;
  const whole = byNow + (sumOf(metric, model.before.rest)?.quantity ?? 0n);
  if (!whole) return "none in the last period";
  if (!byNow) return `last period: ${COMPACT.format(Number(whole) / 10 ** scaleOf(model, metric))}`;
  const tenths = ((quantity - byNow) * 1000n) / byNow;
  return `${CHANGE.format(Number(tenths) / 1000)} on last period to date`;
}

/** What was used of a metric in a month, a day or an hour, as far as that was read.
 * @param {Model} model @param {string} metric @param {string} time empty for the whole period */
export function usedIn(model, metric, time) {
  const ofDay = time.length === 13 ? model.hoursOf.get(time.slice(0, 10)) : undefined;
  return sumOf(metric, (ofDay ?? rows(model)).filter(({ period }) => period.startsWith(time)));
}

/** The splits of what is chosen. @param {Model} model @param {Choice} choice @returns {Split[]} */
export function splits(model, { metric, at }) {
  if (!metric) return [];
  const all = [["key", "key", ""], ["dimension", dimensionOf(model, metric), ""]];
  if (at) all.push(["at-key", "key", at], ["at-dimension", dimensionOf(model, metric), at]);
  return all.filter(([, by]) => by).map(([slot, dimension, time]) => ({ slot, metric, dimension, time }));
}

/** Say if a split was read of the same. @param {Split} one @param {Split} other */
export const isOf = (one, other) =>
  one.metric === other.metric && one.dimension === other.dimension && one.time === other.time;

/** Say why something is not there. @param {Model} model @param {string[]} names under which it may be missing */
export const absent = ({ missing }, ...names) =>
  names.some((name) => missing.has(name)) ? "Not read now; it follows by itself." : "Reading …";

/** The values of a split with what was used of each, the largest first. @param {Parts} parts */
export function ranked(parts) {
  /** @type {Map<string, bigint>} */
  const added = new Map();
  for (const { value, quantity } of parts.rows) added.set(value ?? "", (added.get(value ?? "") ?? 0n) + quantity);
  return [...added].sort(([, left], [, right]) => (left < right ? 1 : left > right ? -1 : 0));
}

// ---------------------------------------------------------------------------------------------------------------- bars

/** The hours that the page shows one by one, in order of time. @param {Model} model @param {string} span
 * @param {Date} now */
export function hoursShown(model, span, now) {
  const [next, begin] = [dateOf(hourOf(now)).getTime() + HOUR_MS, dateOf(model.begin).getTime()];
  const isDay = span !== LATEST && span !== PERIOD;
  const last = isDay ? Math.min(next, dateOf(`${span}T00`).getTime() + DAY_MS) : next;
  const first = Math.max(begin, isDay ? dateOf(`${span}T00`).getTime() : next - DAY_MS);
  return Array.from({ length: Math.max(0, (last - first) / HOUR_MS) }, (_, n) => hourOf(new Date(first + n * HOUR_MS)));
}

/** The rows that are told by the hour. @param {Model} model @param {string} span */
export const hourRows = (model, span) => model.hoursOf.get(span) ?? model.recent ?? [];

/** The chart's bars, in order of time, and what each is about.
 * @param {Model} model @param {Choice} choice @param {Date} now @returns {Series} */
export const series = (model, choice, now) =>
  choice.span === PERIOD ? periodSeries(model, choice.metric, now) : hourSeries(model, choice, now);

/** @param {Model} model @param {Choice} choice @param {Date} now @returns {Series} */
function hourSeries(model, { metric, span }, now) {
  const used = hourRows(model, span).filter((row) => row.metric === metric);
  const bars = hoursShown(model, span, now).map((hour) => ({
    time: hour,
    label: inWords(hour),
    short: `${hour.slice(11)}h`,
    cell: sum(used.filter((row) => row.period === hour)),
    before: null,
    future: false,
  }));
  return { unit: "hour", bars };
}

/** @param {Model} model @param {string} metric @param {Date} now @returns {Series} */
function periodSeries(model, metric, now) {
  const [begin, end] = [dateOf(model.begin), dateOf(model.end)];
  const unit = end.getTime() - begin.getTime() > MOST_DAY_BARS * DAY_MS ? "month" : "day";
  const earlier = buckets(previousBegin(begin, model.invoice), begin, unit);
  const used = rows(model).filter((row) => row.metric === metric);
  const { byNow, rest } = model.before ?? { byNow: [], rest: [] };
  const before = [...byNow, ...rest].filter((row) => row.metric === metric);
  const bars = buckets(begin, end, unit).map((bucket, n) => ({
    time: bucket,
    label: inWords(bucket),
    short: unit === "month" ? inWords(bucket).slice(0, 3) : DAY_WORDS.format(dateOf(`${bucket}T00`)),
    cell: sum(used.filter((row) => row.period.startsWith(bucket))),
    before: sum(before.filter((row) => row.period.startsWith(earlier[n] ?? "none")))?.quantity ?? 0n,
    future: bucket > hourOf(now).slice(0, bucket.length),
  }));
  return { unit, bars };
}

/** Say what a bar shows. @param {Model} model @param {string} metric @param {Bar} bar */
export function barWords(model, metric, bar) {
  const words = (/** @type {bigint} */ quantity) => measureWords(model, metric, quantity);
  const before = bar.before ? ` · previous period ${words(bar.before)}` : "";
  const empty = bar.future ? "still to come" : "none";
  const used = bar.cell ? `${words(bar.cell.quantity)}, ${bar.cell.state}` : empty;
  return `${bar.label}: ${used}${before}`;
}
