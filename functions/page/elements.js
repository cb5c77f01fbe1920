/**
 * Elements: those that index.html has, and new ones. What comes from the API becomes text, never markup.
 *
 * @import { State } from "./api.js"
 * @typedef {Record<string, string | number>} Attributes
 * @typedef {(Node | string)[]} Children
 */

import { grouped, title } from "./words.js";

/** Return an element of index.html. @param {string} id */
export const at = (id) => of(id, HTMLElement);

/** Return an element of index.html that is of some kind.
 * @template {HTMLElement} E @param {string} id @param {new () => E} kind @returns {E} */
export function of(id, kind) {
  const element = document.getElementById(id);
  if (element instanceof kind) return element;
  throw new TypeError(`index.html must have a ${kind.name} #${id}, got ${element}`);
}

/** Return what stands in an element. @param {Element} element @param {string} selector */
export function within(element, selector) {
  const part = element.querySelector(selector);
  if (part) return part;
  throw new TypeError(`#${element.id} must have a ${selector}`);
}

/** Make an element; what is no element becomes text.
 * @param {string} tag @param {Attributes} attributes @param {Children} children */
export const h = (tag, attributes = {}, ...children) => dressed(document.createElement(tag), attributes, children);

/** @param {string} tag @param {Attributes} attributes @param {Children} children */
export const s = (tag, attributes = {}, ...children) =>
  dressed(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** @template {Element} E @param {E} element @param {Attributes} attributes @param {Children} children */
function dressed(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Change a text only if it is another, so that nobody is told the same twice.
 * @param {Element} where @param {string} text */
export function write(where, text) {
  if (where.textContent !== text) where.textContent = text;
}

/** What is written, with places where a line may break between groups of digits. @param {string} words @returns {Children} */
export const numbers = (words) => grouped(words).flatMap((part, n) => (n ? [h("wbr"), part] : [part]));

/** Change a text of numbers only if it is another. @param {Element} where @param {string} words */
export function writeNumbers(where, words) {
  if (where.textContent !== words) where.replaceChildren(...numbers(words));
}

/** Put new elements somewhere only if they are others than before; who is on a time stays there.
 * @param {Element} where @param {Element} made */
export function renew(where, made) {
  if (where.innerHTML === made.outerHTML) return;
  const held = document.activeElement instanceof HTMLElement ? document.activeElement : null;
  const time = held && where.contains(held) ? held.dataset.at : undefined;
  where.replaceChildren(made);
  if (time) chooserOf(where, time)?.focus();
}

/** What opens the split of a time, or closes it; main.js hears of it.
 * @param {string} time @param {string} words @param {string} chosen the time that is open */
export const chooser = (time, words, chosen) =>
  h("button", { type: "button", "data-at": time, "aria-expanded": String(time === chosen), "aria-controls": "moment" }, words);

/** Return what somewhere opens a time. @param {Element} where @param {string} time @returns {HTMLElement | null} */
export const chooserOf = (where, time) => where.querySelector(`button[data-at="${CSS.escape(time)}"]`);

/** A number that programs can read beside what people read. @param {bigint} value @param {string} words */
export const data = (value, words) => h("data", { value: String(value) }, ...numbers(words));

/** @param {State} state */
export const stateMark = (state) => h("span", { class: `state ${state}` }, title(state));

/** @param {string} text */
export const quiet = (text) => h("span", { class: "quiet" }, text);

/** A table, whose cells know their heading: on a phone some stand below one another.
 * @param {string} caption @param {[string, string][]} columns heading and class @param {Element[]} body */
export function table(caption, columns, ...body) {
  const heads = columns.map(([name, kind]) => h("th", { scope: "col", class: kind }, name));
  for (const cell of body.flatMap((part) => [...part.querySelectorAll("td")])) {
    const after = [...(cell.parentElement?.children ?? [])].reverse().indexOf(cell); // the first may be of several columns
    cell.dataset.label = columns.at(-1 - after)?.[0] ?? "";
  }
  return h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, ...heads)), ...body);
}

/** @param {Children} cells the first is the row's heading */
export const row = ([first, ...cells]) =>
  h("tr", {}, h("th", { scope: "row" }, first), ...cells.map((cell) => h("td", { class: "number" }, ...(typeof cell === "string" ? numbers(cell) : [cell]))));

/** A bar of which a part is full. @param {number} part from 0 to 1 @param {string} kind */
export function share(part, kind) {
  const width = Math.max(0, Math.min(100, part * 100));
  const full = s("rect", { width, height: 4, class: kind });
  const view = { viewBox: "0 0 100 4", preserveAspectRatio: "none", class: "share", "aria-hidden": "true" };
  return s("svg", view, s("rect", { width: 100, height: 4, class: "rail" }), full);
}
