// SPDX-License-Identifier: GPL-2.0-or-later
// Puts the page together: what does not change, the keys and buttons, and one drawing for any number of changes.

function seal(words, kind) {
  return element("span", words, `seal ${kind}`);
}

function drawVerdict() {
  const seals = [];
  if (facts.divergence) seals.push(seal(facts.divergence, "bad"));
  if (facts.damage) seals.push(seal(facts.damage, "bad"));
  if (facts.replayed && facts.verified) {
    seals.push(seal(`${facts.divergence || facts.damage ? "before that, " : ""}${grouped(facts.verified)} epochs replayed, every digest as recorded`,
      facts.divergence || facts.damage ? "" : "good"));
  }
  if (!facts.replayed) seals.push(seal("not replayed: only what came in", "warn"));
  if (facts.tail) seals.push(seal(`torn tail: ${facts.tail}`, "warn"));
  else if (!facts.damage) seals.push(seal(facts.closed ? "ended by its recorder" : "its recorder was killed, or still runs", facts.closed ? "" : "warn"));
  document.getElementById("verdict").replaceChildren(...seals);
}

function drawFigures() {
  const seconds = (facts.end - facts.start) / TICKS;
  const count = (direction) => data.kinds.filter((kind) => kind.direction === direction).reduce((sum, kind) => sum + kind.count, 0);
  const size = (direction) => data.kinds.filter((kind) => kind.direction === direction).reduce((sum, kind) => sum + kind.bytes, 0);
  const busy = between("busy", begin, end) / Math.max(facts.end - facts.start, 1);
  const figures = [
    [duration(facts.end - facts.start), "of guest time"],
    [grouped(facts.entries), "entries"],
    [bytes(facts.clock), "of code run"],
    [`${rough(Math.min(100, 100 * busy))} %`, "of the time busy"],
    [grouped(count("in")), `events in, ${bytes(size("in"))}`],
    facts.replayed ? [grouped(count("out")), `outputs, ${bytes(size("out"))}`] : ["-", "outputs: not replayed"],
    [bytes(facts.bytes), `of log, ${bytes(facts.bytes / Math.max(seconds, 1e-7))} in a second`],
  ];
  document.getElementById("figures").replaceChildren(
    ...figures.map(([value, words]) => {
      const figure = element("div", "", "figure");
      figure.append(element("b", value), element("span", words));
      return figure;
    }),
  );
}

function drawFacts() {
  const reasons = Object.entries(facts.reasons).map(([reason, count]) => `${reason} ${grouped(count)}`).join(", ");
  const list = [
    ["Entries", facts.entries ? `${facts.first} to ${facts.last}` : "none"],
    ["Begins", facts.starts_after ? `with the state behind entry ${facts.starts_after}` : "at power-on"],
    ["Guest time", `${moment(facts.start, SPAN_MIN)} to ${moment(facts.end, SPAN_MIN)}`],
    ["Epochs ended by", reasons || "-"],
    ["Digests", `${grouped(facts.entries)} of registers, devices and outputs; ${grouped(facts.page_digests)} of memory pages`],
    ["Engine", facts.engine],
    ["Pair", facts.pair || "-"],
    ...Object.entries(facts.images).map(([name, digest]) => [`Image ${name}`, digest]),
    ["Configuration", facts.configuration],
    ...Object.entries(facts.notes).map(([name, text]) => [`Note ${name}`, text]),
  ];
  document.getElementById("facts").replaceChildren(...list.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  document.getElementById("machine").textContent = facts.machine || "(the log holds none)";
}

function drawAll() {
  drawOverview();
  drawLanes();
  drawTable();
  drawRates();
  const span = view.end - view.begin;
  document.getElementById("window").textContent = `${moment(view.begin, span)} to ${moment(view.end, span)}, ${duration(span)}`;
  chart.dataset.begin = String(view.begin);
  chart.dataset.end = String(view.end);
}

function start() {
  document.getElementById("name").textContent = facts.name;
  document.getElementById("subtitle").textContent = `${facts.pair ? `pair ${facts.pair}, ` : ""}${facts.engine}`;
  drawVerdict();
  drawFigures();
  drawFacts();
  startChart();
  startTable();
  const actions = {
    back: () => move(-0.25), on: () => move(0.25), out: () => zoom(2), in: () => zoom(0.5), all: () => show(begin, end),
  };
  for (const [name, action] of Object.entries(actions)) document.getElementById(name).addEventListener("click", action);
  const keys = {
    ArrowLeft: actions.back, ArrowRight: actions.on, "-": actions.out, "+": actions.in, "=": actions.in, Home: actions.all,
    n: () => neighbour(1), p: () => neighbour(-1), Escape: () => select(null),
  };
  chart.addEventListener("keydown", (event) => {
    const action = keys[event.key] || keys[event.key.toLowerCase()];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
  let due = false;
  view.listeners.push(() => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; drawAll(); });
  });
  window.addEventListener("resize", changed);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  drawAll();
}

start();
