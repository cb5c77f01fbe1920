/**
 * Where everything of the chart stands: its lines, bars and labels, in pixels. What draws it is view.js.
 *
 * Only here are quantities floats, since a height is none that anybody reads.
 *
 * @import { Bar } from "./figures.js"
 *
 * How wide the chart may be, and how large a letter is.
 * @typedef {{width: number, rem: number}} Room
 * @typedef {{x: number, y: number, width: number, height: number}} Box
 * @typedef {{x: number, y: number, text: string}} Label
 *
 * A bar and where it stands: what reacts to a pointer, the bar if it has a height, and the previous period's level.
 * @typedef {{bar: Bar, reach: Box, column: Box | null, level: number | null, left: number, right: number,
 *   label: Label | null}} Slot
 * @typedef {{width: number, height: number, left: number, ticks: {y: number, isAxis: boolean, label: Label}[],
 *   slots: Slot[]}} Layout
 */

import { COMPACT } from "./words.js";

/** Lay bars out as wide as there is room.
 * @param {Bar[]} bars @param {number} scale @param {boolean} compared with the previous period @param {Room} room
 * @returns {Layout} */
export function layOut(bars, scale, compared, room) {
  const { rem, width } = room;
  const [height, left, bottom, upper] = [rem * 14, rem * 3.2, rem * 1.8, rem * 0.8];
  const { step, ceiling } = scaleFor(bars, scale, compared);
  const y = (/** @type {number} */ value) => height - bottom - (value / ceiling) * (height - bottom - upper);
  const ticks = [];
  for (let value = 0; value <= ceiling + step / 2; value += step) {
    const label = { x: left - rem * 0.5, y: y(value) + rem * 0.25, text: COMPACT.format(value) };
    ticks.push({ y: y(value), isAxis: value === 0, label });
  }
  const slot = (width - left) / Math.max(1, bars.length);
  const thin = Math.max(1, Math.min(rem * 3, slot * 0.72));
  const each = Math.max(1, Math.ceil((rem * 3.4) / slot));
  const slots = bars.map((bar, n) => {
    const [begin, x] = [left + n * slot, left + n * slot + (slot - thin) / 2];
    const value = Number(bar.cell?.quantity ?? 0) / 10 ** scale;
    const tall = Math.max(1.5, y(0) - y(value));
    const isLabelled = n % each === 0 && begin + rem * 2 < width;
    return {
      bar,
      reach: { x: begin, y: upper, width: slot, height: height - bottom - upper },
      column: value ? { x, y: y(0) - tall, width: thin, height: tall } : null,
      level: compared && bar.before ? y(Number(bar.before) / 10 ** scale) : null,
      left: x,
      right: x + thin,
      label: isLabelled ? { x: left + (n + 0.5) * slot, y: height - rem * 0.5, text: bar.short } : null,
    };
  });
  return { width, height, left, ticks, slots };
}

/** Return up to where the chart reaches, and in which steps. @param {Bar[]} bars @param {number} scale
 * @param {boolean} compared */
function scaleFor(bars, scale, compared) {
  const quantities = bars.flatMap((bar) => [bar.cell?.quantity ?? 0n, (compared && bar.before) || 0n]);
  const most = Math.max(0, ...quantities.map(Number)) / 10 ** scale;
  const step = niceStep(most, scale ? 0 : 1);
  return { step, ceiling: Math.max(step, Math.ceil(most / step) * step) };
}

/** Return a step of 1, 2 or 5 times a power of ten that makes about four lines.
 * @param {number} most @param {number} least */
function niceStep(most, least) {
  const rough = most / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  return Math.max(least, ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10) * power);
}
