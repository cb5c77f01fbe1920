/**
 * How numbers, amounts and prices are written: exactly, and as the reader's own language does. Nothing else is known here.
 *
 * @import { Invoice, Terms, Tier } from "./api.js"
 *
 * What an amount is in, and how many decimals it then has.
 * @typedef {{currency: string, decimals: bigint}} Money
 */

/** Write an exact decimal number: `digits` are its whole units of 10 to the power of -`places`.
 * @param {string} digits whole or decimal @param {number} places */
export function shifted(digits, places) {
  const negative = digits.startsWith("-");
  const [whole, fraction = ""] = digits.replace("-", "").split(".");
  const padded = whole.padStart(places + 1, "0");
  const point = padded.length - places;
  const written = `${negative ? "-" : ""}${padded.slice(0, point)}.${padded.slice(point)}${fraction}`;
  return /** @type {`${number}`} */ (written.replace(/\.$/, ""));
}

/** Read an amount into the currency's smallest unit; nothing is null, and what cannot be meant undefined.
 * @param {string} written @param {number} places */
export function smallest(written, places) {
  if (!written) return null;
  const parts = /^(\d{1,12})(?:[.,](\d*))?$/.exec(written);
  const fraction = parts?.[2] ?? "";
  if (!parts || fraction.length > places) return undefined;
  const amount = BigInt(parts[1] + fraction.padEnd(places, "0"));
  return amount > 0n ? amount : undefined;
}

export const WHOLE = new Intl.NumberFormat();
export const COMPACT = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
export const PERCENT = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 1 });

const GROUP = WHOLE.formatToParts(1e9).find(({ type }) => type === "group")?.value ?? ",";
const BETWEEN_GROUPS = new RegExp(`(?<=\\d[${GROUP}])(?=\\d)`);

/** Cut what is written where a line may break: between groups of digits, never within one. @param {string} words */
export const grouped = (words) => words.split(BETWEEN_GROUPS);

/** Write a quantity with its decimals. @param {bigint} quantity @param {number} scale */
export function quantityWords(quantity, scale) {
  if (!scale) return WHOLE.format(quantity);
  const places = { minimumFractionDigits: scale, maximumFractionDigits: scale };
  return new Intl.NumberFormat(undefined, places).format(shifted(String(quantity), scale));
}

const SIZES = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte", "petabyte"];

/** Write bytes roughly, in the unit that people would take. @param {bigint} bytes */
export function sizeWords(bytes) {
  const power = Math.min(SIZES.length - 1, Math.floor((String(bytes).replace("-", "").length - 1) / 3));
  const places = { maximumFractionDigits: power ? 2 : 0 };
  return new Intl.NumberFormat(undefined, { style: "unit", unit: SIZES[power], ...places }).format(Number(bytes) / 1000 ** power);
}

/** Write an amount, which is exact and in the currency's smallest unit, as people do: every digit of it.
 * @param {bigint | string} amount @param {Money} of whose currency it is in */
export function money(amount, { currency, decimals }) {
  const places = Number(decimals);
  return new Intl.NumberFormat(undefined, {
    style: "currency", currency, minimumFractionDigits: places, maximumFractionDigits: 20,
  }).format(shifted(String(amount), places));
}

/** Say what a price asks. @param {Terms} terms @param {Invoice} invoice whose currency it is in */
export function priceWords(terms, invoice) {
  switch (terms.kind) {
    case "per_unit":
      return `${money(terms.amount, invoice)} per unit`;
    case "package":
      return `${money(terms.amount, invoice)} for each ${WHOLE.format(terms.size)} begun`;
    case "flat":
      return `${money(terms.amount, invoice)} fixed`;
    default:
      return `${terms.kind}: ${terms.tiers.map((tier) => tierWords(tier, invoice)).join(", ")}`;
  }
}

/** @param {Tier} tier @param {Invoice} invoice */
function tierWords(tier, invoice) {
  const reach = tier.up_to === null ? "beyond" : `up to ${WHOLE.format(tier.up_to)}`;
  const fixed = tier.flat === "0" ? "" : ` + ${money(tier.flat, invoice)} fixed`;
  return `${reach}: ${money(tier.amount, invoice)}${fixed}`;
}

/** Write a name as people do. @param {string} name of a metric, plan, state or unit */
export const title = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
