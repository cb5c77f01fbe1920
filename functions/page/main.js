/**
 * The usage page: reads one customer's API in turn and shows what it says, and hears what somebody chooses.
 *
 * What is asked and when is in reading.js, the way to the API in api.js; figures.js and chart.js work out what view.js
 * shows.
 *
 * @import { Choice } from "./figures.js"
 */

import {
  Problem, dropToken, endedAt, hasToken, isLink, now, openSession, setBudget, takeToken, tokenEnd,
} from "./api.js";
import { at, chooserOf, of, write } from "./elements.js";
import { LATEST, MOMENT_WORDS, busiest, firstSpan, metrics, missingWords, reach, spans } from "./figures.js";
import { sayOfBudget, showStanding, touchBudget, writtenBudget } from "./limits.js";
import { POLL_MS, model, readDue, readFile, readRest, tryAgain, waitMs } from "./reading.js";
import { say, show, showChart, showDoor, showMissing, showState, showTrouble } from "./view.js";

const UTF_8 = "\ufeff"; // the mark without which Excel takes a file for one of the computer's own character set
const KEPT_MS = 30_000; // a file, until the browser has surely written it

/** @type {Choice} */
const choice = chosenBefore();
const page = { paused: false, busy: false, failures: 0, missing: "", timer: 0 };

/** Read what is due, show it, and come again. */
async function turn() {
  clearTimeout(page.timer);
  if (page.busy || !hasToken()) return;
  page.busy = true;
  const began = performance.now();
  let wait = POLL_MS;
  try {
    await openSession();
    await readDue();
    display();
    well();
    standing();
    await readRest(choice, display); // the figures are there; what stands beside them comes as it comes
    well();
    wait = Math.max(POLL_MS / 5, POLL_MS - (performance.now() - began));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return ended(error.message);
    page.failures += 1;
    wait = waitMs(error, page.failures - 1);
    tryAgain();
    trouble(error, wait);
  } finally {
    page.busy = false;
  }
  if (!page.paused && !document.hidden) page.timer = setTimeout(turn, wait);
}

/** Show what was read, unless the session has ended meanwhile. */
function display() {
  if (!hasToken()) return;
  settle();
  show(model, choice, now(), tokenEnd());
}

/** Choose what to show first, and something else for what is not there, as a day that has gone with its period. */
function settle() {
  const isNone = model.prices.metrics.length > 0 && !metrics(model).includes(choice.metric);
  if (!choice.metric || isNone) choice.metric = busiest(model);
  choice.span ||= firstSpan(model, now());
  if (!spans(model, now()).includes(choice.span)) choice.span = LATEST;
  if (!reach(model, choice.at)) choice.at = "";
}

/** Show how the customer stands with its limits, and tell a screen reader where that changes. */
function standing() {
  const news = showStanding(model);
  if (news) say(news);
}

/** Say of when the figures are, and what is missing, to a screen reader the first time only. */
function well() {
  const missing = missingWords(model);
  if (missing && missing !== page.missing) say(`Not read now: ${missing}.`);
  if (!missing && (page.missing || page.failures)) say("The figures are up to date again.");
  Object.assign(page, { missing, failures: 0 });
  showMissing(missing);
  const isOld = model.missing.has("recent") || model.missing.has("days");
  showState(page.paused ? "paused" : isOld ? "stale" : "live", now());
}

/** Say what is wrong, to a screen reader the first time only.
 * @param {Problem} problem @param {number} waitMs until it is tried again */
function trouble({ status, message }, waitMs) {
  const ours = `The server has a problem${message ? `: ${message}` : ""}.`;
  const reason = status === 0 ? message : status === 429 ? "Too many requests at once." : ours;
  showTrouble(reason, waitMs, now());
  if (page.failures === 1) say(`${reason} It is tried again by itself.`);
}

/** Return what the address says was chosen: so it survives a reload, and the way back to this page. */
function chosenBefore() {
  const query = new URLSearchParams(location.search);
  return { metric: query.get("metric") ?? "", span: query.get("span") ?? "", at: query.get("at") ?? "" };
}

/** Write what is chosen into the address, and nothing else: a session's token stands nowhere in it. */
function keepChoice() {
  const { at: time, ...rest } = choice;
  history.replaceState(null, "", `${location.pathname}?${new URLSearchParams(time ? choice : rest)}`);
}

/** Forget the token, and say that the session or the link has ended or never worked.
 * @param {string} detail what the API said of the token */
function ended(detail) {
  const end = tokenEnd();
  const what = isLink() ? "link" : "page";
  dropToken();
  showEnd(what, end, detail);
}

/** Say what to do where a session or a link does not work, or no more.
 * @param {string} what @param {Date | null} end until when it worked @param {string} detail */
function showEnd(what, end, detail) {
  const over = end && end <= now();
  const until = over ? `It worked until ${MOMENT_WORDS.format(end)} UTC. ` : "";
  showDoor(
    over ? `This ${what} has ended` : `This ${what} does not work`,
    `${until}Ask whoever bills you for a new link, and open that. Your usage goes on being counted.`,
    detail,
  );
}

/** Show another metric, or another span of time. @param {Partial<Choice>} wanted */
async function choose(wanted) {
  Object.assign(choice, wanted);
  keepChoice();
  tryAgain();
  display();
  try {
    await readRest(choice, display);
    if (!page.failures) well();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    ended(error.message);
  }
}

/** Hand the browser the period's usage as a CSV file. */
async function download() {
  const button = of("csv", HTMLButtonElement);
  button.disabled = true;
  try {
    const [by, dimension] = of("csv-by", HTMLSelectElement).value.split(" ");
    const { name, content } = await readFile(by, dimension);
    const address = URL.createObjectURL(new Blob([UTF_8, content], { type: "text/csv" }));
    const link = document.createElement("a");
    link.href = address;
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(address), KEPT_MS);
    say(`${name} was downloaded.`);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return ended(error.message);
    say("The file could not be read.");
    trouble(error, POLL_MS);
  } finally {
    button.disabled = false;
  }
}

/** Set the budget that the form says. @param {SubmitEvent} event */
async function budget(event) {
  event.preventDefault();
  const before = model.standing;
  const wanted = before && writtenBudget(before);
  if (!before || !wanted) return;
  const button = of("budget-set", HTMLButtonElement);
  button.disabled = true;
  try {
    model.standing = { ...before, budget: await setBudget(wanted) };
    touchBudget(false);
    sayOfBudget("Your budget is set. It acts within a minute as a rule.");
    standing();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (error.status === 401) return ended(error.message);
    sayOfBudget(`Your budget is not set: ${error.message || "the server has a problem"}.`);
  } finally {
    button.disabled = false;
  }
}

/** Stop asking, or go on. */
function pause() {
  page.paused = !page.paused;
  at("pause").classList.toggle("paused", page.paused);
  write(at("pause"), page.paused ? "Resume" : "Pause");
  showState(page.paused ? "paused" : "live", now());
  clearTimeout(page.timer);
  if (!page.paused) turn();
}

/** Ask at once when somebody looks again. */
function resume() {
  if (document.hidden || page.paused) return;
  tryAgain(true);
  turn();
}

/** Ask at once, also for what was not answered. */
function askAgain() {
  tryAgain();
  turn();
}

/** Begin with the link's token, or say that one is wanted. */
function open() {
  if (takeToken()) {
    at("wait").hidden = false;
    turn();
    return;
  }
  const end = endedAt();
  if (end) {
    showEnd("page", end, "");
    return;
  }
  showDoor(
    "Open this page with your link",
    "Your usage is shown to whoever has a link to it. Ask whoever bills you for one: it opens the page for eight hours.",
  );
}

/** Begin anew with another link that was opened in this tab. */
function reopen() {
  if (location.hash.length > 1 && location.hash !== "#main") location.reload();
}

/** Choose the metric whose button was pressed. @param {Event} event somewhere among the metrics */
function chooseMetric({ target }) {
  const button = target instanceof Element ? target.closest("[data-metric]") : null;
  if (button instanceof HTMLElement) choose({ metric: button.dataset.metric });
}

/** Where the time was chosen that is open. @type {Element | null} */
let chosenIn = null;

/** Open the split of a time that was chosen in the chart or a table, or close it again. @param {Event} event there */
function chooseTime({ target, currentTarget }) {
  const time = target instanceof Element && target.closest("[data-at]")?.getAttribute("data-at");
  if (!time || !(currentTarget instanceof Element)) return;
  if (time === choice.at) return closeTime();
  chosenIn = currentTarget;
  choose({ at: time });
  at("moment").focus();
}

/** Close the split of a time; who came by keyboard goes on where that was chosen. */
function closeTime() {
  const time = choice.at;
  choose({ at: "" });
  const opener = chosenIn && chooserOf(chosenIn, time);
  (opener?.checkVisibility() ? opener : of("span", HTMLSelectElement)).focus();
}

let wasOpen = false;

/** On paper the chart's table is there as well. @param {MediaQueryListEvent} event */
function showTable({ matches }) {
  const table = of("chart-table", HTMLDetailsElement);
  if (matches) wasOpen = table.open;
  table.open = matches || wasOpen;
}

let drawnFor = 0;

/** Draw the chart anew where it has got another width. @param {ResizeObserverEntry[]} entries */
function redraw([{ contentRect }]) {
  const width = Math.round(contentRect.width);
  if (width && width !== drawnFor && model.begin) requestAnimationFrame(() => showChart(model, choice, now()));
  drawnFor = width;
}

at("pause").addEventListener("click", pause);
at("csv").addEventListener("click", download);
at("again").addEventListener("click", askAgain);
at("budget").addEventListener("submit", budget);
at("budget").addEventListener("input", () => touchBudget(true));
at("span").addEventListener("change", () => choose({ span: of("span", HTMLSelectElement).value, at: "" }));
at("metrics").addEventListener("click", chooseMetric);
for (const id of ["chart", "chart-rows", "hours"]) at(id).addEventListener("click", chooseTime);
at("moment-close").addEventListener("click", closeTime);
at("moment").addEventListener("keydown", ({ key }) => { if (key === "Escape") closeTime(); });
document.addEventListener("visibilitychange", resume);
addEventListener("online", resume);
matchMedia("print").addEventListener("change", showTable);
addEventListener("hashchange", reopen);
new ResizeObserver(redraw).observe(at("chart"));
open();
