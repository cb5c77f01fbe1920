/**
 * What is seen of limits: a notice where access is closed or something has acted, a meter for each, and the budget.
 *
 * @import { Amounts, Limit, LimitStep, Reason, Standing } from "./api.js"
 * @import { Model } from "./figures.js"
 */

import { at, data, h, numbers, of, quiet, share, write } from "./elements.js";
import { MOMENT_WORDS, headOf, inWords } from "./figures.js";
import { WHOLE, money, quantityWords, shifted, smallest, title } from "./words.js";

const WINDOWS = { hour: "this hour", day: "today", month: "this month", period: "this period" };
const DOES = { notify: "you are told", slow: "your calls are slowed down", stop: "your calls are refused" };
const ACCESS = { open: "You are near a limit", slowed: "Your access is slowed down", stopped: "Your access is stopped" };
/** @type {Record<string, string | undefined>} */
const OWN = { "budget/notify": "Your budget, to be told", "budget/stop": "Your budget, to stop" };

/** Show how the customer stands, or nothing where there are no limits; return what is new in the notice.
 * @param {Model} model */
export function showStanding(model) {
  const { missing } = model;
  const standing = model.standing && titled(model.standing, model);
  const noStanding = missing.get("limits");
  const isEmpty = !standing || (!standing.limits.length && !maySet(standing));
  at("limits").hidden = isEmpty && !noStanding;
  at("limits-note").hidden = !noStanding;
  const what = standing ? "This is the last that was known" : "How you stand is not known now";
  write(at("limits-note"), `${what}; it follows by itself.`);
  if (!standing) return "";
  at("meters").replaceChildren(...standing.limits.map((limit, n) => meter(limit, n, standing)));
  showBudget(standing);
  return showNotice(standing);
}

/** How the customer stands, with what metrics are called and their units. @param {Standing} standing @param {Model} model
 * @returns {Standing} */
const titled = (standing, model) => ({
  ...standing, limits: standing.limits.map((limit) => ({ ...limit, title: headOf(model, limit.metric) })),
});

// ---------------------------------------------------------------------------------------------------------- the notice

/** @param {Standing} standing */
function showNotice(standing) {
  const reached = standing.limits.filter(hasActed);
  const lines = [
    ...standing.reasons.map((reason) => reasonWords(reason, standing)),
    ...reached.filter((limit) => !isReason(limit, standing)).map((limit) => reachedWords(limit, standing)),
  ];
  const notice = at("notice");
  const head = lines.length ? ACCESS[standing.access] : "";
  const isNew = at("notice-title").textContent !== head;
  notice.hidden = !lines.length;
  notice.dataset.access = standing.access;
  write(at("notice-title"), head);
  if (at("notice-lines").textContent !== lines.join("")) {
    at("notice-lines").replaceChildren(...lines.map((line) => h("li", {}, line)));
  }
  if (!isNew) return "";
  return head ? `${head}. ${lines[0]}` : "Your access is open, and no limit is near.";
}

/** Say if a step has acted that is still reached: a correction may have brought the customer below it again.
 * @param {Limit} limit */
const hasActed = ({ steps, used }) => steps.some((step) => step.acted_at && used >= step.at);

/** @param {Limit} limit @param {Standing} standing */
const isReason = (limit, { reasons }) => reasons.some((reason) => limit.limit === limitOf(reason));

/** The limit that a reason is about, if it is about one. @param {Reason} reason */
const limitOf = ({ name }) =>
  name === "budget" ? "budget/stop" : name.startsWith("limit:") ? name.slice(6, name.lastIndexOf(":")) : "";

/** @param {Reason} reason @param {Standing} standing */
function reasonWords(reason, standing) {
  const limit = standing.limits.find((one) => one.limit === limitOf(reason));
  const words = {
    operator: "Whoever bills you has closed it",
    unpaid: "An invoice is not paid",
    budget: "Your own budget is reached",
  }[reason.name];
  const reached = limit ? `The limit is reached: ${name(limit).charAt(0).toLowerCase()}${name(limit).slice(1)}` : "A limit is reached";
  const since = reason.since ? `, since ${moment(reason.since)}` : "";
  const until = reason.until ? ` By itself this ends on ${moment(reason.until)} at the latest.` : "";
  return `${words ?? reached}${since}.${until}`;
}

/** @param {Limit} limit @param {Standing} standing */
function reachedWords(limit, standing) {
  const left = `${amount(limit.remaining, limit, standing)} left until ${resets(limit)}`;
  return `${name(limit)}: ${WHOLE.format(limit.percent)}% used, ${left}.`;
}

/** @param {string} written as the API writes a moment */
const moment = (written) => `${MOMENT_WORDS.format(new Date(written))} UTC`;

// ---------------------------------------------------------------------------------------------------------- the meters

/** @param {Limit} limit @param {number} n @param {Standing} standing */
function meter(limit, n, standing) {
  const part = Number(limit.percent > 100n ? 100n : limit.percent);
  const words = (/** @type {bigint} */ some) => amount(some, limit, standing);
  const least = limit.at_least ? "at least " : "";
  const left = `${words(limit.remaining)} left, resets on ${resets(limit)}`;
  const most = h("span", { class: "most quiet" }, ...numbers(` of ${words(limit.most)}`));
  const gauge = {
    role: "meter", "aria-labelledby": `limit-${n}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": part,
    "aria-valuetext": `${WHOLE.format(limit.percent)}%: ${least}${words(limit.used)} of ${words(limit.most)}`,
  };
  return h(
    "div",
    { class: "card limit", "data-limit": limit.limit },
    h("h3", { id: `limit-${n}` }, name(limit)),
    h("p", { class: "big" }, quiet(least), data(limit.used, words(limit.used)), most),
    h("div", gauge, share(part / 100, level(limit))),
    h("p", {}, left),
    h("ul", { class: "steps quiet" }, ...limit.steps.map((step) => h("li", {}, stepWords(step, words)))),
    h("p", { class: "quiet" }, `From ${limit.source_in_words.replace(/^set/, "a limit set")}`),
  );
}

/** What a meter looks like. @param {Limit} limit */
function level(limit) {
  if (limit.steps.some(({ does, at }) => does !== "notify" && limit.used >= at)) return "over";
  return hasActed(limit) || limit.percent >= 100n ? "close" : "of";
}

/** @param {Limit} limit */
const name = ({ limit, metric, per, title: called }) =>
  OWN[limit] ?? `${metric === "spend" ? "Cost" : (called ?? title(metric))} ${WINDOWS[per]}`;

/** @param {Limit} limit */
const resets = ({ window }) => `${inWords(window.to)} UTC`;

/** @param {LimitStep} step @param {(some: bigint) => string} words */
function stepWords({ does, percent, at, acted_at: acted }, words) {
  const said = acted ? `: reached on ${moment(acted)}` : "";
  return `At ${WHOLE.format(percent)}%, ${words(at)}, ${DOES[does]}${said}`;
}

/** Write units or money. @param {bigint} some @param {Limit} limit @param {Standing} standing */
function amount(some, { metric, scale }, { currency, decimals }) {
  if (metric !== "spend") return quantityWords(some, Number(scale));
  return currency ? money(some, { currency, decimals }) : WHOLE.format(some);
}

// ---------------------------------------------------------------------------------------------------------- the budget

/** Say if the session may set a budget, and there is something that it would be in. @param {Standing} standing */
const maySet = ({ budget, currency }) => budget.may_set && currency !== null;

/** Show the budget's form, and in its fields what is set, unless somebody is about to write something else.
 * @param {Standing} standing */
function showBudget(standing) {
  const { budget, currency, decimals } = standing;
  at("budget").hidden = !maySet(standing);
  at("budget-may-stop").hidden = !budget.may_stop;
  for (const unit of at("budget").querySelectorAll(".unit")) write(unit, `(${currency?.toUpperCase() ?? ""})`);
  if (at("budget").dataset.touched) return;
  for (const [id, some] of /** @type {const} */ ([["budget-notify", budget.notify], ["budget-stop", budget.stop]])) {
    const written = some === null ? "" : shifted(String(some), Number(decimals));
    const field = of(id, HTMLInputElement);
    if (field.value !== written) field.value = written;
  }
}

/** Note that somebody writes into the form, or has done. @param {boolean} isTouched */
export function touchBudget(isTouched) {
  if (isTouched) at("budget").dataset.touched = "yes";
  else delete at("budget").dataset.touched;
}

/** Return what the form says, or null where a field is none that can be meant, which is then said.
 * @param {Standing} standing @returns {Amounts | null} */
export function writtenBudget(standing) {
  const places = Number(standing.decimals);
  const [notify, stop] = ["budget-notify", "budget-stop"].map((id) => {
    const field = of(id, HTMLInputElement);
    const amount = smallest(field.value.trim(), places);
    field.setAttribute("aria-invalid", String(amount === undefined));
    return amount;
  });
  if (notify !== undefined && stop !== undefined) return { notify, stop: standing.budget.may_stop ? stop : null };
  sayOfBudget(`Write an amount such as ${shifted("6000", places)}, above zero, or nothing.`);
  return null;
}

/** Say what has become of the budget. @param {string} words */
export const sayOfBudget = (words) => write(at("budget-said"), words);
