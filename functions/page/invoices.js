/**
 * What is seen of invoices of past periods: what each asks and how it stands, with links to it at Stripe, and of paying.
 *
 * @import { PastInvoice, PastInvoices } from "./api.js"
 * @import { Model } from "./figures.js"
 */

import { at, data, h, quiet, renew, row, table, write } from "./elements.js";
import { DATE_WORDS, MOMENT_WORDS, dateOf } from "./figures.js";
import { WHOLE, money } from "./words.js";

const OF_ALL = {
  settled: "Nothing is left to be paid.",
  open: "There is something to be paid.",
  past_due: "There is something past due.",
};
const OLDER = " These are the latest; whoever bills you knows of older ones.";
const UNPAID = ["open", "past_due"];

/** Show the invoices, so far as they were read; nothing where there is nobody that invoices. @param {Model} model */
export function showInvoices({ invoices, missing }) {
  const isMissing = missing.has("invoices");
  at("invoices").hidden = !invoices && !isMissing;
  const old = invoices ? " Below is what was read last." : "";
  const late = `Invoices are not read now; they follow by themselves.${old}`;
  write(at("invoices-note"), isMissing ? late : noteWords(invoices));
  at("invoice-rows").hidden = !invoices?.invoices.length;
  if (invoices?.invoices.length) renew(at("invoice-rows"), invoiceTable(invoices.invoices));
  const manage = invoices && link(invoices.payment.manage_url, "Payment methods and details");
  at("manage").hidden = !manage;
  if (manage && at("manage").innerHTML !== manage.outerHTML) at("manage").replaceChildren(manage);
}

/** @param {PastInvoices | null} invoices */
function noteWords(invoices) {
  if (!invoices) return "";
  const { invoices: shown, more, payment } = invoices;
  if (!shown.length) return "There is none yet.";
  if (payment.state === "settled" && more) return `Of these nothing is left to be paid.${OLDER}`;
  return `${OF_ALL[payment.state]}${more ? OLDER : ""}`;
}

/** @param {PastInvoice[]} invoices */
function invoiceTable(invoices) {
  /** @type {[string, string][]} */
  const columns = [["Invoice", ""], ["Period (UTC)", ""], ["State", ""], ["Amount", "number"], ["At Stripe", ""]];
  return table("Invoices, latest first", columns, h("tbody", {}, ...invoices.map(invoiceRow)));
}

/** @param {PastInvoice} invoice */
function invoiceRow(invoice) {
  const { id, number, from, to, state, total, page_url: page, pdf_url: pdf } = invoice;
  const name = number ?? id;
  const pays = UNPAID.includes(state) && !isUnderWay(invoice);
  const links = [link(page, pays ? "Pay" : "View", name), link(pdf, "PDF", name)].filter((one) => one !== null);
  const line = row([
    name,
    day(from) === day(to) ? day(from) : `${day(from)} – ${day(to)}`,
    h("span", { class: `paying ${state}` }, stateWords(invoice)),
    data(total, money(total, invoice)),
    links.length ? h("span", { class: "links" }, ...links) : quiet("not there yet"),
  ]);
  for (const cell of [line.children[1], line.children[2], line.children[4]]) cell.className = "";
  return line;
}

/** Say if a charge is under way, which takes days from a bank account. @param {PastInvoice} invoice */
const isUnderWay = ({ state, attempts }) => state === "open" && attempts > 0n;

/** Say how an invoice stands. @param {PastInvoice} invoice */
function stateWords(invoice) {
  const { state, total, due, due_at: dueAt, next_attempt_at: next, attempts } = invoice;
  const left = due === total ? "" : `, ${money(due, invoice)} of it left`;
  const again = next ? `; charged again by itself on ${moment(next)}` : "";
  switch (state) {
    case "paid":
      return "Paid";
    case "void":
      return "Cancelled: it asks nothing";
    case "uncollectible":
      return "Not paid, and given up";
    case "past_due":
      return `${attempts ? failed(attempts) : `Past due${dueAt ? ` since ${day(dueAt)}` : ""}`}${left}${again}`;
    default:
      if (isUnderWay(invoice)) return `A charge is under way${left}`;
      if (next) return `Charged by itself on ${moment(next)}${left}`;
      return `To be paid${dueAt ? ` by ${day(dueAt)}` : ""}${left}`;
  }
}

/** Say how often it could not be charged. @param {bigint} attempts */
const failed = (attempts) => `Past due: ${WHOLE.format(attempts)} ${attempts === 1n ? "charge has" : "charges have"} failed`;

/** @param {string} written an hour, or a moment as the API writes it */
const day = (written) => DATE_WORDS.format(dateOf(written.slice(0, 13)));

/** @param {string} written */
const moment = (written) => `${MOMENT_WORDS.format(new Date(written))} UTC`;

/** A link to another site, which learns nothing of this page; nothing where there is no address that a link may have.
 * @param {string | null} address @param {string} words @param {string} what for who hears it alone */
function link(address, words, what = "") {
  if (!address || !URL.canParse(address)) return null;
  if (!["https:", location.protocol].includes(new URL(address).protocol)) return null;
  const more = h("span", { class: "unseen" }, `${what && ` ${what}`}, in a new tab`);
  const kind = words === "Pay" ? "go pay" : "go";
  return h("a", { class: kind, href: address, target: "_blank", rel: "noopener noreferrer" }, words, more);
}
