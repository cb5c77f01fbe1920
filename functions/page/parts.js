/**
 * What usage is made of: the chosen metric by key and by its dimension, of the period, and of one time that is asked for.
 *
 * @import { Choice, Model, Parts, Split } from "./figures.js"
 */

import { at, data, h, quiet, row, share, table, within, write } from "./elements.js";
import {
  CLOCK_WORDS, absent, headOf, inWords, isOf, measureWords, ranked, scaleOf, splits, titleOf, usedIn,
} from "./figures.js";
import { PERCENT, quantityWords, title } from "./words.js";

const MOST_PARTS = 100;
const SLOTS = ["key", "dimension", "at-key", "at-dimension"];

/** Show what was read of each split, and why another is not there.
 * @param {Model} model @param {Choice} choice */
export function showParts(model, choice) {
  const shown = splits(model, choice);
  for (const slot of SLOTS) {
    const split = shown.find((one) => one.slot === slot);
    at(`by-${slot}`).hidden = !split;
    if (split) showSplit(split, model);
  }
  showMoment(model, choice);
}

/** Show the time that is asked for, if one is. @param {Model} model @param {Choice} choice */
function showMoment(model, { metric, at: time }) {
  at("moment").hidden = !time;
  if (!time) return;
  write(at("moment-title"), `${titleOf(model, metric)}, ${inWords(time)}`);
  const used = usedIn(model, metric, time);
  write(at("moment-note"), used ? `${measureWords(model, metric, used.quantity)}, ${used.state}` : "");
}

/** @param {Split} split @param {Model} model */
function showSplit(split, model) {
  const [panel, parts] = [at(`by-${split.slot}`), model.parts.get(split.slot)];
  const by = title(split.dimension).toLowerCase();
  write(within(panel, "h3, h4"), split.time ? `By ${by}` : `${titleOf(model, split.metric)} by ${by}`);
  const isRead = parts && isOf(parts, split);
  const soFar = parts?.until ? `up to ${inWords(parts.until)}; the rest follows` : `at ${CLOCK_WORDS.format(parts?.at)}`;
  write(within(panel, ".quiet"), isRead ? soFar : "");
  const rows = isRead ? partRows(parts, by, scaleOf(model, split.metric)) : [];
  const none = isRead ? `Nothing ${split.time ? "in this time" : "yet in this period"}.` : absent(model, split.slot);
  const caption = `${titleOf(model, split.metric)} by ${split.dimension}`;
  /** @type {[string, string][]} */
  const columns = [[title(split.dimension), ""], [headOf(model, split.metric), "number"], ["Share", "number"]];
  const isShared = isRead && parts.rows.some(({ value }) => !value);
  within(panel, ".parts").replaceChildren(
    rows.length ? table(caption, columns, h("tbody", {}, ...rows)) : h("p", { class: "empty" }, none),
    ...(isShared ? [h("p", { class: "shared quiet" }, sharedWords(by))] : []),
  );
}

/** Say what is of no single value. @param {string} by */
const sharedWords = (by) =>
  `Of no single ${by} are corrections, and what several have in common: a value that each brought, or one peak of all.`;

/** @param {Parts} parts @param {string} by @param {number} scale */
function partRows(parts, by, scale) {
  const values = ranked(parts);
  const added = (/** @type {[string, bigint][]} */ some) => some.reduce((sum, [, quantity]) => sum + quantity, 0n);
  const [total, rest] = [added(values), added(values.slice(MOST_PARTS))];
  const names = new Map(parts.rows.map(({ value, name }) => [value, name]));
  const rows = values.slice(0, MOST_PARTS).map(([value, quantity]) =>
    part(value ? named(value, names.get(value)) : quiet(`of no single ${by}`), quantity, total, scale),
  );
  if (rest) rows.push(part(quiet(`${values.length - MOST_PARTS} others`), rest, total, scale));
  return rows;
}

/** What a value is called, where it is, and then the value small beside it. @param {string} value @param {string} [name] */
const named = (value, name) =>
  name ? h("span", {}, h("span", { class: "called" }, name), " ", h("code", { class: "quiet" }, value)) : h("code", {}, value);

/** @param {Node} name @param {bigint} quantity @param {bigint} total @param {number} scale */
function part(name, quantity, total, scale) {
  const ratio = total ? Number(quantity) / Number(total) : 0;
  const cell = h("span", { class: "part" }, name, share(ratio, "of"));
  const words = ratio > 0 && ratio < 0.001 ? `< ${PERCENT.format(0.001)}` : PERCENT.format(ratio);
  return row([cell, data(quantity, quantityWords(quantity, scale)), words]);
}
