// SPDX-License-Identifier: GPL-2.0-or-later
// The timeline: a strip with all of it and the window in it, and lanes over the window. A lane of events shows each as a
// mark while they are few enough and all are known, otherwise how many there are in each column.

const LANE = 36;
const AXIS = 26;
const COLUMN = 2; // pixels
const MARKS_MAX = 700; // in a lane: more are shown as columns
const NEAR = 7; // pixels: how far from a mark a click may be

const lanes = [
  { name: "busy", title: "busy", unit: "of guest time", colour: "--busy" },
  { name: "code", title: "code", unit: "bytes/us", colour: "--code" },
  ...data.kinds.map((kind) => ({ name: `n ${kind.name}`, kind, title: titled(kind.name), colour: `--${kind.direction}` })),
];
const overview = document.getElementById("overview");
const chart = document.getElementById("lanes");
const hover = document.getElementById("hover");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function prepared(canvas, height) {
  const width = canvas.clientWidth;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width];
}

function drawOverview() {
  const [context, width] = prepared(overview, 44);
  const heights = [];
  let most = 0;
  for (let x = 0; x < width; x += COLUMN) {
    const from = begin + ((end - begin) * x) / width;
    const to = begin + ((end - begin) * (x + COLUMN)) / width;
    let count = 0;
    for (const kind of data.kinds) count += between(`n ${kind.name}`, from, to);
    heights.push(count);
    most = Math.max(most, count);
  }
  context.fillStyle = colour("--soft");
  heights.forEach((count, column) => {
    const height = count > 0 ? Math.max(2, 38 * Math.sqrt(count / most)) : 0;
    context.fillRect(column * COLUMN, 44 - height, COLUMN - 0.5, height);
  });
  const left = ((view.begin - begin) / (end - begin)) * width;
  const right = ((view.end - begin) / (end - begin)) * width;
  context.fillStyle = colour("--panel");
  context.globalAlpha = 0.7;
  context.fillRect(0, 0, left, 44);
  context.fillRect(right, 0, width - right, 44);
  context.globalAlpha = 1;
  context.strokeStyle = colour("--accent");
  context.lineWidth = 2;
  context.strokeRect(left + 1, 1, Math.max(right - left - 2, 1), 42);
  if (view.selected) drawLine(context, ((view.selected.time - begin) / (end - begin)) * width, 44);
}

function drawLine(context, x, height) {
  context.fillStyle = colour("--mark");
  context.fillRect(x - 0.75, 0, 1.5, height);
}

function drawLanes() {
  const height = lanes.length * LANE + AXIS;
  const [context, width] = prepared(chart, height);
  drawAxis(context, width, height);
  lanes.forEach((lane, number) => {
    const bottom = (number + 1) * LANE - 4;
    context.fillStyle = colour("--line");
    context.fillRect(0, bottom + 2, width, 1);
    context.fillStyle = colour(lane.colour);
    if (lane.kind && showsMarks(lane)) drawMarks(context, lane, bottom, width);
    else drawColumns(context, lane, bottom, width);
  });
  if (view.selected) drawLine(context, place(view.selected.time, width), height - AXIS);
}

function place(time, width) {
  return ((time - view.begin) / (view.end - view.begin)) * width;
}

function inWindow(lane) {
  const list = rowsOf.get(lane.kind.name);
  return list.slice(firstAt(list, view.begin), firstAt(list, view.end + 1));
}

function showsMarks(lane) {
  if (lane.kind.stride > 1) return false;
  const list = rowsOf.get(lane.kind.name);
  return firstAt(list, view.end + 1) - firstAt(list, view.begin) <= MARKS_MAX;
}

function drawMarks(context, lane, bottom, width) {
  context.globalAlpha = 0.9;
  for (const row of inWindow(lane)) {
    context.fillRect(place(row.time, width) - 1, bottom - 22, 2, 22);
  }
  context.globalAlpha = 1;
}

function drawColumns(context, lane, bottom, width) {
  const values = [];
  const share = (view.end - view.begin) / width;
  let most = 0;
  for (let x = 0; x < width; x += COLUMN) {
    const from = view.begin + x * share;
    const value = between(lane.name, from, from + COLUMN * share);
    values.push(value);
    most = Math.max(most, value);
  }
  if (lane.name === "busy") most = COLUMN * share;
  if (lane.name === "code") lane.label.textContent = `bytes/us, to ${rough((10 * most) / (COLUMN * share))}`;
  context.globalAlpha = lane.kind ? 0.9 : 0.55;
  values.forEach((value, column) => {
    if (value <= 0 || most <= 0) return;
    const height = Math.max(1.5, 28 * Math.min(1, value / most));
    context.fillRect(column * COLUMN, bottom - height, COLUMN, height);
  });
  context.globalAlpha = 1;
}

function step(span, most) {
  const rough = span / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].map((factor) => factor * power).find((width) => width >= rough);
}

function drawAxis(context, width, height) {
  const span = view.end - view.begin;
  const wide = step(span, Math.max(2, width / 130));
  context.font = `12px ${colour("--sans")}`;
  context.textAlign = "center";
  const first = Math.ceil(view.begin / wide);
  for (let number = 0; number <= width / 30 && (first + number) * wide <= view.end; number++) {
    const at = (first + number) * wide;
    const x = place(at, width);
    context.fillStyle = colour("--faint");
    context.fillRect(x, 0, 1, height - AXIS);
    context.fillStyle = colour("--soft");
    const words = moment(at, span);
    const half = context.measureText(words).width / 2;
    context.fillText(words, Math.min(Math.max(x, half), width - half), height - 8);
  }
}

function drawLabels() {
  const labels = document.getElementById("labels");
  labels.replaceChildren(
    ...lanes.map((lane) => {
      const label = element("div", "", "label");
      const name = element("b", lane.title);
      label.style.height = `${LANE}px`;
      lane.label = element("span", lane.unit || total(lane.kind));
      label.append(name, lane.label);
      return label;
    }),
  );
}

function total(kind) {
  return kind.bytes ? `${grouped(kind.count)}, ${bytes(kind.bytes)}` : grouped(kind.count);
}

// -- pointing -------------------------------------------------------------------------------------------------------

function timeAt(event, canvas, from, to) {
  const box = canvas.getBoundingClientRect();
  return from + ((to - from) * (event.clientX - box.left)) / box.width;
}

function laneAt(event) {
  return lanes[Math.floor((event.clientY - chart.getBoundingClientRect().top) / LANE)];
}

// The event that was pointed at: the nearest known one of the lane.
function rowAt(event) {
  const lane = laneAt(event);
  if (!lane || !lane.kind) return null;
  const list = rowsOf.get(lane.kind.name);
  const time = timeAt(event, chart, view.begin, view.end);
  const reach = ((view.end - view.begin) / chart.clientWidth) * NEAR;
  const at = firstAt(list, time);
  let best = null;
  for (const row of [list[at - 1], list[at]]) {
    if (row && Math.abs(row.time - time) <= reach && (!best || Math.abs(row.time - time) < Math.abs(best.time - time))) best = row;
  }
  return best;
}

function hoverWords(event) {
  const row = rowAt(event);
  const lane = laneAt(event);
  const time = timeAt(event, chart, view.begin, view.end);
  if (row && showsMarks(lane)) return `${moment(row.time, SPAN_MIN)}  ${titled(row.kind)}\n${row.words}`;
  if (!lane) return moment(time, view.end - view.begin);
  const column = (COLUMN * (view.end - view.begin)) / chart.clientWidth;
  const value = between(lane.name, time, time + column);
  const when = `${moment(time, column)} + ${duration(column)}`;
  if (lane.name === "busy") return `${when}\nbusy ${rough((100 * value) / column)} %`;
  if (lane.name === "code") return `${when}\n${rough((10 * value) / column)} bytes of code in a microsecond`;
  const words = lane.kind.stride > 1 ? `\nevery ${lane.kind.stride}th is known here` : "";
  return `${when}\n${value < 0.95 && value > 0 ? "less than 1" : grouped(Math.round(value))} ${titled(lane.kind.name)}${words}`;
}

function tell(event) {
  hover.textContent = hoverWords(event);
  hover.hidden = false;
  const box = document.getElementById("canvases").getBoundingClientRect();
  const left = Math.min(event.clientX - box.left + 14, box.width - hover.offsetWidth - 4);
  hover.style.left = `${Math.max(0, left)}px`;
  hover.style.top = `${event.clientY - box.top + 16}px`;
}

function draggable(canvas, moved, clicked) {
  let from = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    from = { x: event.clientX, far: false, begin: view.begin, end: view.end };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    from.far = from.far || Math.abs(event.clientX - from.x) > 3;
    if (from.far) moved(event, from);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (from && !from.far) clicked(event);
    from = null;
  });
  canvas.addEventListener("pointercancel", () => (from = null));
}

function startChart() {
  drawLabels();
  draggable(
    chart,
    (event, from) => {
      hover.hidden = true;
      const by = ((from.x - event.clientX) / chart.clientWidth) * (from.end - from.begin);
      const left = Math.min(Math.max(from.begin + by, begin), end - (from.end - from.begin));
      show(left, left + from.end - from.begin);
    },
    (event) => select(rowAt(event)),
  );
  draggable(
    overview,
    (event, from) => {
      const box = overview.getBoundingClientRect();
      const times = [from.x, event.clientX].map((x) => begin + ((end - begin) * (x - box.left)) / box.width);
      show(Math.min(...times), Math.max(...times));
    },
    (event) => {
      const time = timeAt(event, overview, begin, end);
      const half = (view.end - view.begin) / 2;
      show(time - half, time + half);
    },
  );
  chart.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) move(event.deltaX / chart.clientWidth);
    else zoom(Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 120), timeAt(event, chart, view.begin, view.end));
  }, { passive: false });
  chart.addEventListener("dblclick", (event) => zoom(0.25, timeAt(event, chart, view.begin, view.end)));
  chart.addEventListener("pointermove", (event) => { if (!event.buttons) tell(event); });
  chart.addEventListener("pointerleave", () => (hover.hidden = true));
}
