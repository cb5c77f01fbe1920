/**
 * How a price comes about, line by line, so that anybody can redo the sum.
 *
 * @import { Correction, Invoice, Line, Step } from "./api.js"
 * @import { Model } from "./figures.js"
 */

import { at, data, h, numbers, renew, row, table, write } from "./elements.js";
import { inWords, measureWords, titleOf } from "./figures.js";
import { WHOLE, money, priceWords, quantityWords, shifted } from "./words.js";

const KINDS = {
  adjustment: "Put right by whoever bills you",
  carried: "Used in an hour that another invoice is about, or taken there",
};

/** Show the sum of a period. @param {Invoice} invoice @param {Model} model */
export function showPrice(invoice, model) {
  const rounding = `each line is rounded to ${money("1", invoice)}, a half upwards`;
  const note = `Quantity × unit price is the exact amount; ${rounding}, and the total is the sum of the lines.`;
  write(at("price-note"), note);
  const { so_far: soFar, forecast } = invoice;
  const forecasts = new Map(forecast.lines.map((line) => [line.price, money(line.amount, invoice)]));
  const bodies = soFar.lines.map((line) => {
    const steps = line.steps.map((step) => stepRow(step, line, invoice));
    return h("tbody", { "data-price": line.price }, lineRow(line, invoice, forecasts.get(line.price) ?? ""), ...steps);
  });
  const foot = h(
    "tr",
    {},
    h("th", { scope: "row", colspan: 4 }, "Total"),
    h("td", { class: "number" }, data(soFar.total, money(soFar.total, invoice))),
    h("td", { class: "number quiet" }, ...numbers(money(forecast.total, invoice))),
  );
  /** @type {[string, string][]} */
  const columns = [
    ["Units", ""], ["Quantity", "number"], ["Unit price", "number"], ["Exact", "number"], ["Amount", "number"],
    ["Forecast", "number forecast-head"],
  ];
  const caption = "How the price comes about, line by line";
  at("price-lines").replaceChildren(table(caption, columns, ...bodies, h("tfoot", {}, foot)));
  showCorrections(invoice.corrections, model);
}

/** Show what is billed beside what was counted, if anything is. @param {Correction[]} corrections @param {Model} model */
function showCorrections(corrections, model) {
  at("corrections").hidden = !corrections.length;
  const lines = corrections.map(({ metric, hour, kind, quantity }) => {
    const more = `${quantity > 0n ? "+" : ""}${measureWords(model, metric, quantity)}`;
    const line = row([inWords(hour), titleOf(model, metric), data(quantity, more), KINDS[kind]]);
    for (const cell of [line.children[1], line.children[3]]) cell.className = "";
    return line;
  });
  /** @type {[string, string][]} */
  const columns = [["Hour (UTC)", ""], ["Of", ""], ["Quantity", "number"], ["Why", ""]];
  renew(at("correction-rows"), table("Corrections, latest first", columns, h("tbody", {}, ...lines)));
}

/** @param {Line} line @param {Invoice} invoice @param {string} forecast */
function lineRow(line, invoice, forecast) {
  const scale = Number(line.scale);
  const advance = "asked in advance: in full as the period begins, whatever is used in it";
  const asked = h("span", { class: "words quiet" }, priceWords(line.terms, invoice));
  const words = [h("span", { class: "words" }, line.title), asked];
  if (line.in_advance) words.push(h("span", { class: "words quiet" }, advance));
  if (scale) {
    const all = `${quantityWords(line.quantity, scale)} in all; units below are of ${shifted("1", scale)}`;
    words.push(h("span", { class: "words quiet" }, all));
  }
  return h(
    "tr",
    { class: "line" },
    h("th", { scope: "rowgroup", colspan: 4 }, ...words),
    h("td", { class: "number" }, data(line.amount, money(line.amount, invoice))),
    h("td", { class: "number quiet" }, ...numbers(forecast)),
  );
}

/** @param {Step} step @param {Line} line @param {Invoice} invoice */
function stepRow(step, { kind }, invoice) {
  const packages = kind === "package" ? ` ${step.quantity === 1n ? "package" : "packages"}` : "";
  const cells = [
    `${WHOLE.format(step.quantity)}${packages}`,
    `× ${money(step.unit_amount, invoice)}`,
    `= ${money(step.exact, invoice)}`,
    money(step.amount, invoice),
    "",
  ];
  return row([unitWords(step), ...cells]);
}

/** Say which units a step is about. @param {Step} step */
function unitWords({ first, last }) {
  if (first === null) return "fixed";
  return last < first ? "none yet" : `${WHOLE.format(first)} – ${WHOLE.format(last)}`;
}
