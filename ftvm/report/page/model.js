// SPDX-License-Identifier: GPL-2.0-or-later
// What the page knows: the recording's data, the window of guest time that is shown, and who wants to hear of changes.
// Everything from the recording is text, and reaches the page by textContent only.

const TICKS = 1e7; // in a second of guest time
const SPAN_MIN = 20; // ticks: the shortest window

const data = JSON.parse(document.getElementById("data").textContent);
const facts = data.facts;
const begin = facts.start;
const end = Math.max(facts.end, facts.start + SPAN_MIN, facts.start * (1 + 1e-9));

// A series is packed: a number below zero stands for so many zeros. Kept as sums from the left, so that any stretch of
// it costs two looks.
function sums(packed) {
  const out = new Float64Array(data.bins.count + 1);
  let at = 0;
  for (const number of packed) {
    if (number < 0) {
      for (let i = 0; i < -number && at < data.bins.count; i++, at++) out[at + 1] = out[at];
    } else if (at < data.bins.count) {
      out[at + 1] = out[at] + number;
      at++;
    }
  }
  for (; at < data.bins.count; at++) out[at + 1] = out[at];
  return out;
}

const series = new Map(Object.entries(data.bins.series).map(([name, packed]) => [name, sums(packed)]));

// Everything of a series before a moment; within a bin, as if it were spread evenly.
function before(sum, time) {
  const at = Math.min(Math.max((time - data.bins.start) / data.bins.width, 0), data.bins.count);
  const whole = Math.floor(at);
  const part = at - whole;
  return whole >= data.bins.count ? sum[data.bins.count] : sum[whole] + part * (sum[whole + 1] - sum[whole]);
}

function between(name, from, to) {
  const sum = series.get(name);
  if (!sum) return 0;
  return (to >= end ? sum[data.bins.count] : before(sum, to)) - (from <= begin ? 0 : before(sum, from));
}

const rows = data.rows.map(([time, position, kind, size, words], index) => ({
  index, time, position, size, words, kind: data.kinds[kind].name, direction: data.kinds[kind].direction,
}));
const rowsOf = new Map(data.kinds.map((kind) => [kind.name, rows.filter((row) => row.kind === kind.name)]));
// What happens in the guest by itself is mostly interrupts, which would fill the table.
const told = data.kinds.filter((kind) => kind.direction !== "cpu");
const hiddenKinds = new Set(told.length ? data.kinds.filter((kind) => !told.includes(kind)).map((kind) => kind.name) : []);
const view = { begin, end, selected: null, listeners: [] };

function changed() {
  for (const listener of view.listeners) listener();
}

function show(from, to) {
  const span = Math.min(Math.max(to - from, SPAN_MIN), end - begin);
  const left = Math.min(Math.max(from + (to - from - span) / 2, begin), end - span);
  view.begin = left;
  view.end = left + span;
  changed();
}

function zoom(factor, around = (view.begin + view.end) / 2) {
  show(around - (around - view.begin) * factor, around + (view.end - around) * factor);
}

function move(share) {
  const by = (view.end - view.begin) * share;
  const span = view.end - view.begin;
  const left = Math.min(Math.max(view.begin + by, begin), end - span);
  show(left, left + span);
}

// Select an event, or none; `bring` moves the window so that it is in it.
function select(row, bring = false) {
  view.selected = row;
  if (row && bring && (row.time < view.begin || row.time > view.end)) {
    const span = view.end - view.begin;
    show(row.time - span / 2, row.time + span / 2);
  } else {
    changed();
  }
}

// How many events of a kind are in a stretch, and their bytes: exact where all are known.
function counted(kind, from, to) {
  if (kind.stride > 1) return [between(`n ${kind.name}`, from, to), between(`b ${kind.name}`, from, to)];
  const list = rowsOf.get(kind.name);
  const inside = list.slice(firstAt(list, from), firstAt(list, to + (to >= end ? 1 : 0)));
  return [inside.length, inside.reduce((sum, row) => sum + row.size, 0)];
}

// The index of the first row at this time or later, among rows in order of time.
function firstAt(list, time) {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle].time < time) low = middle + 1;
    else high = middle;
  }
  return low;
}

// -- words ----------------------------------------------------------------------------------------------------------

function grouped(number, digits = 0) {
  return number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function rough(number) {
  if (number === 0) return "0";
  if (number >= 1000) return grouped(Math.round(number));
  return number >= 10 ? grouped(number, 1) : number.toPrecision(2);
}

function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) {
    number /= 1000;
    unit++;
  }
  if (!unit) return `${number < 10 && number % 1 ? number.toPrecision(2) : Math.round(number)} B`;
  return `${number.toPrecision(3)} ${units[unit]}`;
}

// A moment, with as many digits as a window of that width needs.
function moment(ticks, span) {
  const digits = Math.min(Math.max(Math.ceil(-Math.log10(span / TICKS)) + 2, 0), 7);
  return `${(ticks / TICKS).toFixed(digits)} s`;
}

function duration(ticks) {
  if (ticks >= TICKS) return `${(ticks / TICKS).toPrecision(4)} s`;
  return ticks >= TICKS / 1000 ? `${(ticks / 1e4).toPrecision(4)} ms` : `${(ticks / 10).toPrecision(4)} us`;
}

function titled(kind) {
  return kind.replaceAll("_", " ");
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (className) made.className = className;
  return made;
}
