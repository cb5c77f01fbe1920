/**
 * What is asked of the API, and when: all once a minute, what moves every few seconds, and what somebody looks at.
 *
 * @import { Row } from "./api.js"
 * @import { Choice, Model, Parts, Split } from "./figures.js"
 */

import { Problem, invoice, invoices, now, prices, standing, usage, usageFile } from "./api.js";
import {
  DAY_MS, HOUR_MS, PERIOD, LATEST, dateOf, dayStart, hourOf, isOf, period, pieces, previousBegin, reach, splits,
  usedIn,
} from "./figures.js";

const ALL_MS = 60_000; // everything
export const POLL_MS = 5_000;
const SLOWEST_MS = 60_000; // between two tries while nothing answers
const PARTS_MS = 15_000; // by key and by dimension, if the metric has moved
const SETTLED_MS = 3_600_000; // what no late request changes any more
const LATE_MS = 62 * DAY_MS; // how late a request may come
const MONTH_HOURS = 744n; // a piece never reaches over the end of a month
const FILE_HOURS = 168n; // of a file by day and key, all metrics at once: so many lines are always answered
const INVOICES_MS = 300_000; // invoices of past periods, which Stripe is asked for
const IN_ANY_PERIOD = ["invoice", "invoices", "limits", "prices"];
const MOST_TRIES = 30; // while a long period is added up, a piece by each

/** What the API said last. @type {Model} */
export const model = {
  prices: { plans: [], metrics: [], limits: { hours: 24n, hours_by_key: 24n } },
  invoice: null,
  begin: "",
  end: "",
  recentFrom: "",
  days: null,
  recent: null,
  before: null,
  hoursOf: new Map(),
  parts: new Map(),
  standing: null,
  invoices: null,
  missing: new Map(),
};

/** When each answer is due again, and how often in a row it was none. @type {Map<string, {at: number, fails: number}>} */
const due = new Map();

/** Whether anything was answered since a turn began. */
let answered = false;

/** Whether there are limits, as far as the API has said. */
let isLimited = true;

/** Whether a month was too large for one answer: then less is asked for at once. */
let large = false;

/** What was read of pieces that have passed, and when. @type {Map<string, {rows: Row[], at: number}>} */
const passed = new Map();

/** Read what the figures are made of, as far as it is due. A Problem is thrown where nothing at all is answered. */
export async function readDue() {
  answered = false;
  const first = [
    answer("invoice", 0, readInvoice),
    ...(isLimited ? [answer("limits", 0, readStanding)] : []),
    answer("prices", ALL_MS, async () => { model.prices = await prices(); }), // whose limits move with a customer's keys
  ];
  // The period of the invoice is what the rest is about.
  if (!model.begin || hourOf(now()) >= model.end || model.missing.has("invoice")) await all(first);
  setPeriod();
  await all([...first, answer("days", ALL_MS, readEarlier), answer("recent", 0, readRecent)]);
}

/** Wait for answers; whatever becomes of one, the others are waited for, unless nothing at all is answered.
 * @param {Promise<boolean>[]} waited */
async function all(waited) {
  await Promise.all(waited);
  const [problem] = model.missing.values();
  if (!answered && problem) throw problem;
}

/** Read one answer if it is due, and return whether it was. Without it the page shows the others; only a session that
 * has ended ends them all.
 * @param {string} name @param {number} every how many milliseconds @param {() => Promise<void>} read */
async function answer(name, every, read) {
  const { at, fails } = due.get(name) ?? { at: -Infinity, fails: 0 };
  if (performance.now() < at) return false;
  const began = performance.now();
  try {
    await read();
    answered = true;
    model.missing.delete(name);
    due.set(name, { at: began + every, fails: 0 });
  } catch (error) {
    if (!(error instanceof Problem) || error.status === 401) throw error;
    model.missing.set(name, error);
    due.set(name, { at: began + waitMs(error, fails) - POLL_MS / 2, fails: fails + 1 }); // due in the turn that is next then
  }
  return true;
}

/** How long to wait after a problem. @param {Problem} problem @param {number} fails before it */
export const waitMs = (problem, fails) => Math.min(SLOWEST_MS, Math.max(problem.waitMs, POLL_MS * 2 ** fails));

/** Wait no longer for what was not answered, nor, for who was away, for how invoices stand.
 * @param {boolean} wasAway perhaps to pay one */
export function tryAgain(wasAway = false) {
  if (wasAway) due.delete("invoices");
  for (const name of model.missing.keys()) due.delete(name);
}

/** Without a subscription there is no invoice, which is an answer; otherwise the last one stays. */
async function readInvoice() {
  try {
    model.invoice = await wholeInvoice();
  } catch (error) {
    if (error instanceof Problem && error.status === 404) {
      answered = true;
      model.invoice = null;
    }
    throw error;
  }
}

/** Read how the customer stands; where there are no limits, this once. */
async function readStanding() {
  try {
    model.standing = await standing();
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    isLimited = false;
    model.standing = null;
  }
}

/** Read the invoices; where nothing is invoiced there are none. */
async function readInvoices() {
  try {
    model.invoices = await invoices();
  } catch (error) {
    if (!(error instanceof Problem) || error.status !== 404) throw error;
    model.invoices = null;
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

/** Forget what was read of another period, if this is a new one. */
function setPeriod() {
  const [begin, end] = period(model.invoice, now());
  if (begin === model.begin && end === model.end) return;
  Object.assign(model, { begin, end, recentFrom: hourOf(recentBegin(begin)), days: null, recent: null, before: null });
  model.parts.clear();
  model.hoursOf.clear();
  for (const name of [...due.keys()]) if (!IN_ANY_PERIOD.includes(name)) due.delete(name);
}

/** Since when usage is read by the hour: of today and yesterday. @param {string} begin of the period */
const recentBegin = (begin) =>
  new Date(Math.max(dateOf(begin).getTime(), dayStart(new Date(now().getTime() - DAY_MS)).getTime()));

/** Read the period's earlier days. */
async function readEarlier() {
  const recent = recentBegin(model.begin);
  model.days = await readDays(dateOf(model.begin), recent);
  model.recentFrom = hourOf(recent);
}

/** Read the hours since. */
async function readRecent() {
  model.recent = await usage({ from: model.recentFrom, by: "hour" });
}

/** Read the previous period: what it had come to when it was as old as this one, and the rest. */
async function readBefore() {
  const begin = dateOf(model.begin);
  const earlier = previousBegin(begin, model.invoice);
  const elapsed = dateOf(hourOf(now())).getTime() - begin.getTime();
  const until = new Date(Math.min(begin.getTime(), earlier.getTime() + elapsed));
  const [byNow, rest] = await Promise.all([readDays(earlier, until), readDays(until, begin)]);
  model.before = { byNow, rest };
}

/** Read what stands beside the figures, as far as it is due, and tell of each as it comes.
 * @param {Choice} choice which may change meanwhile @param {() => void} came */
export async function readRest(choice, came) {
  const { span } = choice;
  const isEarlier = span !== LATEST && span !== PERIOD && `${span}T00` < model.recentFrom;
  for (const name of model.missing.keys()) if (/^\d/.test(name) && name !== span) model.missing.delete(name);
  const reads = [
    answer("before", ALL_MS, readBefore),
    answer("invoices", INVOICES_MS, readInvoices),
    ...splits(model, choice).filter(hasMoved).map((split) => answer(split.slot, 0, () => readSplit(split, choice, came))),
    ...(isEarlier ? [answer(span, ALL_MS, async () => { model.hoursOf.set(span, await hoursOf(span)); })] : []),
  ];
  await Promise.all(reads.map(async (read) => (await read) && came()));
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
 * @param {Date} from @param {Date} to @param {Record<string, string>} query @param {bigint} most hours of a piece
 * @param {(rows: Row[], until: string) => void} [came] told of all that was read, after each piece */
async function readPieces(from, to, query, most, came) {
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
    if (end < to) came?.([...rows], hourOf(end));
  }
  return rows;
}

/** Read the period's usage so far as a CSV file, whose lines are those of its pieces.
 * @param {string} by @param {string} [dimension] "key", or no split */
export function readFile(by, dimension) {
  const week = model.prices.limits.hours_by_key < FILE_HOURS ? model.prices.limits.hours_by_key : FILE_HOURS;
  return dimension ? readFileOf({ by, dimension }, week) : inPieces((most) => readFileOf({ by }, most));
}

/** @param {Record<string, string>} query @param {bigint} most hours of a piece */
async function readFileOf(query, most) {
  const end = Math.min(dateOf(model.end).getTime(), dateOf(hourOf(now())).getTime() + HOUR_MS);
  let [name, content] = ["", ""];
  for (const [first, until] of pieces(dateOf(model.begin), new Date(end), Number(most))) {
    const piece = await usageFile({ from: hourOf(first), to: hourOf(until), ...query });
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

/** Say if a split has to be read: it is another one than before, or it has moved since. @param {Split} split */
function hasMoved(split) {
  const known = model.parts.get(split.slot);
  const age = now().getTime() - (known?.at ?? 0);
  if (!known || !isOf(known, split) || age >= ALL_MS) return true;
  return age >= PARTS_MS && known.total !== total(split);
}

/** What a split adds up to, as far as that is known. @param {Split} split */
const total = ({ metric, time }) => usedIn(model, metric, time)?.quantity ?? 0n;

/** Read a split into its slot, unless something else is chosen meanwhile; one that is new shows as it comes.
 * @param {Split} split @param {Choice} choice @param {() => void} came */
async function readSplit(split, choice, came) {
  const { slot, metric, dimension, time } = split;
  const [parts, known] = [{ ...split, total: total(split), at: now().getTime(), until: "" }, model.parts.get(slot)];
  const isNew = !known || !isOf(known, split);
  const [begin, end] = (time && reach(model, time)) || [dateOf(model.begin), dateOf(model.end)];
  const last = new Date(Math.min(end.getTime(), dayStart(now()).getTime() + DAY_MS));
  /** @param {Partial<Parts>} read */
  const keep = (read) => {
    const isWanted = splits(model, choice).some((one) => one.slot === slot && isOf(one, split));
    if (isWanted) model.parts.set(slot, { ...parts, rows: [], ...read });
  };
  /** @param {Row[]} rows @param {string} until */
  const piece = (rows, until) => { keep({ rows, until, at: 0 }); came(); };
  /** @param {bigint} most */
  const read = (most) => readPieces(begin, last, { by: "month", metric, dimension }, most, isNew ? piece : undefined);
  keep({ rows: await (dimension === "key" ? read(model.prices.limits.hours_by_key) : inPieces(read)) });
}
