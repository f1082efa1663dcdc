// SPDX-License-Identifier: GPL-2.0-or-later
// The events of the window as rows; only those in sight are in the page. And the rates of the window.

const ROW = 26;
const table = document.getElementById("table");
const search = document.getElementById("search");
let listed = [];

function kindOf(name) {
  return data.kinds.find((kind) => kind.name === name);
}

function filterRows() {
  const wanted = search.value.toLowerCase();
  const first = firstAt(rows, view.begin);
  const last = firstAt(rows, view.end + 1);
  listed = [];
  for (let i = first; i < last; i++) {
    const row = rows[i];
    if (hiddenKinds.has(row.kind)) continue;
    if (wanted && !`${titled(row.kind)} ${row.position} ${row.words}`.toLowerCase().includes(wanted)) continue;
    listed.push(row);
  }
}

function drawRows() {
  const first = Math.max(0, Math.floor(table.scrollTop / ROW) - 4);
  const last = Math.min(listed.length, first + Math.ceil(table.clientHeight / ROW) + 8);
  document.getElementById("spacer").style.height = `${listed.length * ROW}px`;
  const holder = document.getElementById("rows");
  holder.style.top = `${first * ROW}px`;
  if (!listed.length) {
    holder.replaceChildren(element("div", "No event of the chosen kinds is in the window.", "none"));
    return;
  }
  holder.replaceChildren(...listed.slice(first, last).map((row, offset) => drawRow(row, first + offset)));
}

function drawRow(row, number) {
  const made = element("div", "", "row");
  made.setAttribute("role", "row");
  made.setAttribute("aria-rowindex", String(number + 1));
  made.setAttribute("aria-selected", String(row === view.selected));
  made.dataset.index = String(row.index);
  const kind = element("span", "", "kind");
  kind.append(element("span", "", `swatch ${row.direction}`), titled(row.kind));
  const cells = [
    element("span", moment(row.time, SPAN_MIN), "time"), kind, element("span", row.position, "place"),
    element("span", row.size ? bytes(row.size) : "", "size"), element("span", row.words, "words"),
  ];
  for (const cell of cells) cell.setAttribute("role", "gridcell");
  made.append(...cells);
  return made;
}

function drawTable() {
  filterRows();
  table.setAttribute("aria-rowcount", String(listed.length));
  drawRows();
  const thinned = data.kinds.filter((kind) => kind.stride > 1 && !hiddenKinds.has(kind.name));
  const left = thinned.map((kind) => `every ${kind.stride}th of ${grouped(kind.count)} ${titled(kind.name)}`);
  document.getElementById("shown").textContent =
    `${grouped(listed.length)} in the window` + (left.length ? `; the page holds ${left.join(", ")}` : "");
  document.getElementById("command").textContent = command();
  drawDetail();
}

function quoted(text) {
  return /^[A-Za-z0-9._\/=:,+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function command() {
  const words = ["ftvm log grep", quoted(facts.name)];
  if (hiddenKinds.size || data.kinds.some((kind) => kind.direction === "cpu")) words.push(...data.kinds.filter((kind) => !hiddenKinds.has(kind.name)).map((kind) => `-k ${kind.name}`));
  else if (facts.replayed) words.push("--replay");
  if (view.begin > begin) words.push(`--since ${(view.begin / TICKS).toFixed(7)}`);
  if (view.end < end) words.push(`--until ${(view.end / TICKS).toFixed(7)}`);
  return words.join(" ");
}

function drawDetail() {
  const detail = document.getElementById("detail");
  const row = view.selected;
  detail.hidden = !row;
  if (!row) return;
  const head = element("p", `${titled(row.kind)} at ${moment(row.time, SPAN_MIN)} of guest time, position `);
  head.append(element("code", row.position));
  const words = element("p", row.words || "(nothing)", "words");
  const how = element("p", "To go there: ");
  how.append(element("code", `ftvm replay ${quoted(facts.name)} --gdb 127.0.0.1:1234`), " and in GDB ",
    element("code", `monitor seek ${row.position}`));
  detail.replaceChildren(head, words, how);
}

function scrollTo(row) {
  const at = listed.indexOf(row);
  if (at < 0) return;
  const top = at * ROW;
  if (top < table.scrollTop) table.scrollTop = top;
  else if (top + ROW > table.scrollTop + table.clientHeight) table.scrollTop = top + ROW - table.clientHeight;
}

// To the next event (or the one before) of those that are listed; from the window's edge when none is selected.
function neighbour(by) {
  const visible = rows.filter((row) => !hiddenKinds.has(row.kind));
  if (!visible.length) return;
  let at = visible.indexOf(view.selected);
  if (at < 0) at = by > 0 ? firstAt(visible, view.begin) - 1 : firstAt(visible, view.end + 1);
  const next = visible[Math.min(Math.max(at + by, 0), visible.length - 1)];
  select(next, true);
  scrollTo(next);
}

function drawKinds() {
  document.getElementById("kinds").replaceChildren(
    ...data.kinds.map((kind) => {
      const chip = element("button", "", "chip");
      chip.type = "button";
      chip.dataset.kind = kind.name;
      chip.setAttribute("aria-pressed", String(!hiddenKinds.has(kind.name)));
      chip.append(element("span", "", `swatch ${kind.direction}`), `${titled(kind.name)} ${grouped(kind.count)}`);
      chip.addEventListener("click", () => {
        if (!hiddenKinds.delete(kind.name)) hiddenKinds.add(kind.name);
        chip.setAttribute("aria-pressed", String(!hiddenKinds.has(kind.name)));
        changed();
      });
      return chip;
    }),
  );
}

function drawRates() {
  const seconds = (view.end - view.begin) / TICKS;
  const body = document.querySelector("#rates tbody");
  body.replaceChildren(
    ...data.kinds.map((kind) => {
      const [count, size] = counted(kind, view.begin, view.end);
      const line = document.createElement("tr");
      const name = document.createElement("td");
      name.append(element("span", "", `swatch ${kind.direction}`), titled(kind.name));
      line.append(name);
      const cells = [grouped(Math.round(count)), rough(count / seconds), kind.bytes ? bytes(size) : "",
        kind.bytes ? bytes(size / seconds) : "", grouped(kind.count)];
      for (const cell of cells) line.append(element("td", cell, "number"));
      return line;
    }),
  );
  const epochs = between("epochs", view.begin, view.end);
  const code = between("code", view.begin, view.end);
  const busy = between("busy", view.begin, view.end) / (view.end - view.begin);
  document.getElementById("rates-window").textContent =
    `in the window: ${grouped(Math.round(epochs))} epochs, ${bytes(code)} of code, busy ${rough(Math.min(100, 100 * busy))} %`;
}

function startTable() {
  drawKinds();
  table.addEventListener("scroll", drawRows, { passive: true });
  search.addEventListener("input", () => { table.scrollTop = 0; drawTable(); });
  document.getElementById("rows").addEventListener("click", (event) => {
    const line = event.target.closest(".row");
    if (line) select(rows[Number(line.dataset.index)], true);
  });
  table.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12 }[event.key];
    if (!by || !listed.length) return;
    event.preventDefault();
    const at = listed.indexOf(view.selected);
    const next = listed[Math.min(Math.max(at < 0 ? 0 : at + by, 0), listed.length - 1)];
    select(next);
    scrollTo(next);
  });
}
