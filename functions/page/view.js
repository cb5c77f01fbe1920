/**
 * What is seen: what was read becomes elements of index.html, and so does how the page stands.
 *
 * @import { Invoice, Problem, Row } from "./api.js"
 * @import { Layout, Slot } from "./chart.js"
 * @import { Attributes } from "./elements.js"
 * @import { Bar, Choice, Model, Series } from "./figures.js"
 */

import { layOut } from "./chart.js";
import {
  at, chooser, data, h, of, quiet, renew, row, s, share, stateMark, table, within, write, writeNumbers,
} from "./elements.js";
import {
  CLOCK_WORDS, LATEST, MOMENT_WORDS, PERIOD, STATES, absent, barWords, changeWords, headOf, hourRows, hoursShown, inWords,
  isEarly, isKnown, metrics, progress, scaleOf, series, spans, sum, sumOf, titleOf, totalOf, unitOf,
} from "./figures.js";
import { showInvoices } from "./invoices.js";
import { showParts } from "./parts.js";
import { showPrice } from "./price.js";
import { PERCENT, WHOLE, money, quantityWords, sizeWords, title } from "./words.js";

// ---------------------------------------------------------------------------------------------------- all that is read

/** Show everything that was read.
 * @param {Model} model @param {Choice} choice @param {Date} now @param {Date | null} sessionEnd */
export function show(model, choice, now, sessionEnd) {
  at("door").hidden = at("wait").hidden = true;
  at("figures").hidden = at("acts").hidden = false;
  showHead(model, sessionEnd);
  showCost(model, now);
  showMetrics(model, choice);
  showSpans(model, choice, now);
  showChart(model, choice, now);
  showParts(model, choice);
  at("price").hidden = !model.invoice;
  if (model.invoice) showPrice(model.invoice, model);
  showInvoices(model);
  showHours(model, choice, now);
}

/** @param {Model} model @param {Date | null} sessionEnd */
function showHead({ invoice, begin, end }, sessionEnd) {
  const name = invoice?.name || "Your usage";
  write(at("name"), name);
  document.title = `Usage · ${name}`;
  const plans = invoice ? `${invoice.plans.map(title).join(", ")} · ` : "Calendar month · ";
  write(at("terms"), `${plans}${inWords(begin)} to ${inWords(end)} UTC`);
  write(at("ends"), sessionEnd ? `This page works until ${MOMENT_WORDS.format(sessionEnd)}; after that, open a new link.` : "");
}

/** @param {Problem | undefined} problem */
const reason = (problem) =>
  problem?.status === 503 ? "The payment provider does not answer now." : "It cannot be worked out now.";

/** Say why there is no price. @param {Problem | undefined} problem */
function noCost(problem) {
  const unsubscribed = "Nothing is invoiced: you are subscribed to no plan. What you use is counted and shown below.";
  const [head, text] =
    problem?.status === 404
      ? ["No subscription", unsubscribed]
      : ["Price not known now", `${reason(problem)} Usage is shown below; the price follows by itself.`];
  return h("div", { class: "card" }, h("h3", {}, head), h("p", { class: "quiet" }, text));
}

/** @param {Model} model @param {Date} now */
function showCost(model, now) {
  const { invoice, missing } = model;
  const noInvoice = missing.get("invoice");
  if (!invoice) {
    at("cost").replaceChildren(noCost(noInvoice));
    return;
  }
  const { passed, left } = progress(model, now);
  const asOf = CLOCK_WORDS.format(new Date(invoice.preview.as_of));
  const stale = noInvoice ? `${reason(noInvoice)} This is the last price that was known. ` : "";
  const time = `${stale}${advanceWords(invoice)}${PERCENT.format(passed)} of the period has passed, ${left} days are left`;
  const preview = `Stripe’s own preview at ${asOf}: of the hours that are posted, some minutes behind`;
  const amount = (/** @type {bigint} */ total) => data(total, money(total, invoice));
  const { total, low, high } = invoice.forecast;
  const forecast = hasRange(invoice) ? h("span", {}, amount(low ?? total), " – ", amount(high ?? total)) : amount(total);
  at("cost").replaceChildren(
    card("so-far", "So far", amount(invoice.so_far.total), time, share(passed, "past")),
    card("forecast", "Forecast", forecast, forecastWords(invoice, passed)),
    card("preview", "Next invoice, by Stripe", amount(invoice.preview.total), preview),
  );
}

/** Say how much of what is asked so far is asked whatever is used. @param {Invoice} invoice */
function advanceWords(invoice) {
  const amount = invoice.so_far.lines.reduce((all, line) => (line.in_advance ? all + line.amount : all), 0n);
  return amount ? `${money(amount, invoice)} of it is asked in advance. ` : "";
}

/** Say if the forecast is one between two amounts. @param {Invoice} invoice */
const hasRange = ({ forecast: { low, high } }) => low !== null && high !== null && low < high;

/** Say what the forecast is. @param {Invoice} invoice @param {number} passed of the period, from 0 to 1 */
function forecastWords(invoice, passed) {
  const { total, basis } = invoice.forecast;
  const halves = "from what it comes to if the quieter half of the last 24 hours goes on, to what if the busier half does";
  const one = hasRange(invoice) ? `${halves}. It is ${money(total, invoice)} if` : "what it comes to if";
  const early = `. It is early: ${PERCENT.format(passed)} of the period has passed, and this may be far off`;
  return `An estimate, no price: ${one} ${basis}${isEarly(passed) ? early : ""}`;
}

/** @param {string} id @param {string} name @param {Node} amount @param {string} note @param {Node[]} above the note */
function card(id, name, amount, note, ...above) {
  const figure = h("p", { class: "big" }, amount);
  return h("div", { class: `card ${id}`, id }, h("h3", {}, name), figure, ...above, h("p", { class: "quiet" }, note));
}

/** @param {Model} model @param {Choice} choice */
function showMetrics(model, choice) {
  const known = isKnown(model, PERIOD);
  let used = !known;
  for (const metric of metrics(model)) {
    const button = at("metrics").querySelector(`[data-metric="${CSS.escape(metric)}"]`) ?? metricButton(metric);
    const { quantity } = totalOf(model, metric);
    used ||= quantity > 0n;
    write(within(button, ".name"), headOf(model, metric));
    const figure = within(button, "data");
    figure.setAttribute("value", known ? String(quantity) : "");
    const isSize = known && unitOf(model, metric) === "bytes" && quantity >= 1000n;
    const exact = known ? quantityWords(quantity, scaleOf(model, metric)) : "–";
    writeNumbers(figure, isSize ? sizeWords(quantity) : exact);
    writeNumbers(within(button, ".exact"), isSize ? `${exact} bytes` : "");
    writeNumbers(within(button, ".change"), known ? changeWords(model, metric, quantity) : "not read now");
    writeNumbers(within(button, ".amount"), model.invoice ? amountWords(metric, model.invoice) : "");
    button.setAttribute("aria-pressed", String(metric === choice.metric));
  }
  at("nothing").hidden = used;
}

/** @param {string} metric @param {Invoice} invoice */
function amountWords(metric, invoice) {
  const lines = invoice.so_far.lines.filter((line) => line.metric === metric);
  return lines.length ? money(lines.reduce((total, line) => total + line.amount, 0n), invoice) : "not billed";
}

/** Add what a metric is chosen with; main.js hears of it. @param {string} metric */
function metricButton(metric) {
  const button = h(
    "button",
    { type: "button", class: "metric", "data-metric": metric },
    h("span", { class: "name" }),
    h("data", { class: "figure" }),
    h("span", { class: "exact quiet" }),
    h("span", { class: "row" }, h("span", { class: "amount" }), " ", h("span", { class: "change quiet" })),
  );
  at("metrics").append(button);
  return button;
}

/** @param {Model} model @param {Choice} choice @param {Date} now */
function showSpans(model, choice, now) {
  const offered = spans(model, now);
  const select = of("span", HTMLSelectElement);
  if (select.options.length !== offered.length || select.options[2]?.value !== offered[2]) {
    const words = (/** @type {string} */ span) =>
      ({ [PERIOD]: "the whole period", [LATEST]: "the last 24 hours" })[span] ?? inWords(span);
    select.replaceChildren(...offered.map((span) => h("option", { value: span }, words(span))));
  }
  select.value = choice.span;
}

// ----------------------------------------------------------------------------------------------------------- the chart

/** Show the chart of what is chosen, its legend and its table.
 * @param {Model} model @param {Choice} choice @param {Date} now */
export function showChart(model, choice, now) {
  const { metric, span } = choice;
  const { unit, bars } = series(model, choice, now);
  const scale = scaleOf(model, metric);
  write(at("chart-title"), `${titleOf(model, metric)} by ${unit}`);
  at("chart-table").hidden = !isKnown(model, span);
  if (!isKnown(model, span)) {
    for (const id of ["chart", "legend", "chart-rows"]) at(id).replaceChildren();
    write(at("readout"), absent(model, span === PERIOD ? "days" : span, "recent"));
    return;
  }
  const compared = bars.some((bar) => bar.before);
  const most = bars.reduce((top, { cell }) => (cell && cell.quantity > top ? cell.quantity : top), 0n);
  const top = most ? bars.find((bar) => bar.cell?.quantity === most) : null;
  const words = top ? `Most: ${barWords(model, metric, top)}` : "No usage in this time";
  write(at("readout"), words);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const layout = layOut(bars, scale, compared, { width: Math.max(240, at("chart").clientWidth), rem });
  at("chart").replaceChildren(drawn(layout, (bar) => barWords(model, metric, bar), words, choice.at));
  const keys = STATES.filter((state) => bars.some(({ cell }) => cell?.quantity && cell.state === state)).map(
    (state) => legendKey("rect", { class: `bar ${state}`, x: 1, y: 1, width: 10, height: 10 }, title(state)),
  );
  if (compared) keys.push(legendKey("line", { class: "before", x1: 0, x2: 12, y1: 6, y2: 6 }, "Previous period"));
  at("legend").replaceChildren(...keys);
  renew(at("chart-rows"), chartTable({ unit, bars }, choice, model));
}

/** @param {string} shape @param {Attributes} attributes @param {string} words */
const legendKey = (shape, attributes, words) =>
  h("li", {}, s("svg", { class: "key", viewBox: "0 0 12 12", "aria-hidden": "true" }, s(shape, attributes)), words);

/** @param {Series} series @param {Choice} choice @param {Model} model */
function chartTable({ unit, bars }, { metric, at: chosen }, model) {
  const scale = scaleOf(model, metric);
  const compared = unit !== "hour";
  /** @type {[string, string][]} */
  const columns = [[title(unit), ""], [headOf(model, metric), "number"], ["State", ""]];
  if (compared) columns.push(["Previous period", "number"]);
  const body = bars.filter((bar) => !bar.future).map(({ time, label, cell, before }) => {
    const quantity = cell?.quantity ?? 0n;
    const cells = [data(quantity, quantityWords(quantity, scale)), cell ? stateMark(cell.state) : "–"];
    return row([cell ? chooser(time, label, chosen) : label, ...cells, ...(compared ? [quantityWords(before ?? 0n, scale)] : [])]);
  });
  return table(`${titleOf(model, metric)} by ${unit} (UTC)`, columns, h("tbody", {}, ...body));
}

/** @param {Layout} layout @param {(bar: Bar) => string} said of one @param {string} words while no bar is meant, and for who sees none
 * @param {string} chosen time */
function drawn({ width, height, left, ticks, slots }, said, words, chosen) {
  const label = `${at("chart-title").textContent}. ${words}. The table below has every figure.`;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  for (const { y, isAxis, label: { text, ...place } } of ticks) {
    svg.append(s("line", { class: isAxis ? "axis" : "grid", x1: left, x2: width, y1: y, y2: y }));
    svg.append(s("text", { class: "tick end", ...place }, text));
  }
  for (const slot of slots) {
    if (slot.label) svg.append(s("text", { class: "tick", x: slot.label.x, y: slot.label.y }, slot.label.text));
    const group = drawnSlot(slot, chosen);
    group.addEventListener("pointerenter", () => write(at("readout"), said(slot.bar)));
    svg.append(group);
  }
  svg.addEventListener("pointerleave", () => write(at("readout"), words));
  return svg;
}

/** What is drawn of a bar; where it has usage, a click opens its split. @param {Slot} slot @param {string} chosen time */
function drawnSlot({ bar, reach, column, level, left, right }, chosen) {
  const group = s("g", { class: bar.time === chosen ? "slot chosen" : "slot" }, s("rect", { class: "reach", ...reach }));
  if (bar.cell) group.setAttribute("data-at", bar.time);
  if (bar.cell && column) {
    group.append(s("rect", { class: `bar ${bar.cell.state}`, ...column, rx: Math.min(2, column.width / 4) }));
  }
  if (level !== null) {
    const line = { x1: left, x2: right, y1: level, y2: level };
    for (const kind of ["halo", "before"]) group.append(s("line", { class: kind, ...line }));
  }
  return group;
}

// ---------------------------------------------------------------------------------------------------------- the tables

/** @param {Model} model @param {Choice} choice @param {Date} now */
function showHours(model, choice, now) {
  const span = choice.span === PERIOD ? LATEST : choice.span;
  const names = metrics(model);
  const used = hourRows(model, span);
  const which = span === LATEST ? "The last 24 hours of this period" : inWords(span);
  write(at("hours-note"), `${which}, latest first. Choose another day above the chart; an hour, or a bar of the chart, shows by which keys.`);
  if (!isKnown(model, span)) {
    at("hours").replaceChildren(h("p", { class: "empty" }, absent(model, span, "recent")));
    return;
  }
  const body = hoursShown(model, span, now).reverse().map((hour) =>
    hourRow(hour, used.filter((line) => line.period === hour), names, model, choice.at),
  );
  /** @type {[string, string][]} */
  const columns = [["Hour (UTC)", ""], ["State", ""]];
  for (const metric of names) columns.push([headOf(model, metric), "number"]);
  renew(at("hours"), table("Hours, their state and usage", columns, h("tbody", {}, ...body)));
}

/** @param {string} hour @param {Row[]} used in it @param {string[]} names @param {Model} model @param {string} chosen */
function hourRow(hour, used, names, model, chosen) {
  const all = sum(used);
  const cells = names.map((metric) => {
    const cell = sumOf(metric, used);
    return cell ? data(cell.quantity, quantityWords(cell.quantity, scaleOf(model, metric))) : "–";
  });
  const line = row([all ? chooser(hour, inWords(hour), chosen) : inWords(hour), ...cells]);
  line.children[0].after(h("td", {}, all ? stateMark(all.state) : quiet("no usage")));
  return line;
}

// ------------------------------------------------------------------------------------------------- how the page stands

/** Tell a screen reader, once. @param {string} words */
export const say = (words) => write(at("said"), words);

/** Say whether the figures are fresh. @param {"live" | "paused" | "stale"} state @param {Date} now */
export function showState(state, now) {
  at("live").dataset.state = state;
  const words = { live: "Live", paused: "Paused", stale: "Not up to date" }[state];
  write(at("live-text"), state === "stale" ? words : `${words} · ${CLOCK_WORDS.format(now)} UTC`);
}

/** Say that something is wrong, and that the figures below, if any, are old.
 * @param {string} reason @param {number} waitMs until it is tried again @param {Date} now */
export function showTrouble(reason, waitMs, now) {
  const isShown = !at("figures").hidden;
  const old = isShown ? "The figures below are the last that were read. " : "";
  at("trouble").hidden = false;
  const soon = `It is tried again by itself, in ${WHOLE.format(Math.round(waitMs / 1000))} s.`;
  write(at("trouble-text"), `${reason} ${old}${soon}`);
  showState("stale", now);
  if (!isShown) write(at("terms"), "");
  at("wait").hidden = true;
}

/** Say what is missing beside what is shown. @param {string} words */
export function showMissing(words) {
  at("trouble").hidden = !words;
  const old = "Anything shown of it is the last that was read; it is tried again by itself.";
  write(at("trouble-text"), `Not read now: ${words}. ${old}`);
}

/** Show what to do instead of figures, of which addresses that open an invoice are taken out. @param {string} head @param {string} text @param {string} detail */
export function showDoor(head, text, detail = "") {
  at("figures").hidden = at("acts").hidden = at("wait").hidden = at("trouble").hidden = true;
  at("door").hidden = false;
  for (const id of ["invoice-rows", "manage"]) at(id).replaceChildren();
  write(at("name"), "Usage");
  for (const id of ["terms", "ends"]) write(at(id), "");
  write(at("door-title"), head);
  write(at("door-text"), text);
  write(at("door-detail"), detail);
  say(`${head}. ${text}`);
}
