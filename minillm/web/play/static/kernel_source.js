// A source with what each line asks of memory: a table, a row a line.
import { h } from "./look/dom.js";

// name, title, what it is, and how it is had from the figures of a line.
const MEASURES = [
  ["executed", "executed", "How often a warp executed an access to memory in this line.",
    ({ global: g, shared: s }) => (g?.instructions ?? 0) + (s?.instructions ?? 0)],
  ["sectors", "sectors", "Pieces of 32 bytes of global memory that these accesses moved.", ({ global: g }) => g?.actual],
  ["request", "per request", "Sectors for one access of a warp: 4 is ideal for 32 floats side by side, 32 is each lane alone.",
    ({ global: g }) => g && g.actual / g.instructions],
  ["waves", "wavefronts", "Turns that shared memory took to serve these accesses; 1 for each is ideal for 4-byte words.",
    ({ shared: s }) => s?.actual],
  ["conflicts", "conflicts", "Wavefronts beyond the ideal: lanes that wanted different words of the same bank waited for one another.",
    ({ shared: s }) => s && s.actual - s.ideal],
];
const AT_MOST = 5; // hottest lines that are listed

// file: {name, source: [text], lines: {number: [figures]}}. marks: [{line, text}] to be shown below
// their lines. onLine(number) is called when a line is pointed at or chosen.
export function sourceTable(file, marks, onLine) {
  const cells = Object.fromEntries(Object.entries(file.lines).map(([number, figures]) => [number, bySpace(figures)]));
  const counted = Object.keys(cells).length > 0;
  const rows = new Map();
  const marked = new Map();
  for (const mark of marks) marked.set(mark.line, [...(marked.get(mark.line) ?? []), mark.text]);
  const live = [...new Set([...Object.keys(cells).map(Number), ...marked.keys()])].sort((a, b) => a - b);
  const body = h("tbody", {});
  const columns = MEASURES.filter(([, , , measure]) => Object.values(cells).some((cell) => measure(cell) !== undefined));
  const table = h("table", { class: "lines" },
    h("caption", { class: "sr-only" }, `${file.name}, line by line`),
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "number" }, "line"),
      columns.length ? h("th", { scope: "col", class: "heat" }, "heat") : null,
      columns.map(([name, title, note]) => h("th", { scope: "col", class: `number of-${name}`, title: note }, title)),
      h("th", { scope: "col" }, "source"))), body);
  const view = { element: h("div", { class: "scroll lines-scroll", tabindex: 0, role: "region", "aria-label": "Source lines" }, table),
    counted, selected: null };

  for (const [position, text] of file.source.entries()) {
    const number = position + 1;
    const isLive = cells[number] !== undefined || marked.has(number);
    const row = h("tr", { class: marked.has(number) ? "marked" : null, onmouseenter: isLive ? () => onLine(number) : null,
      onmouseleave: isLive ? () => view.selected !== null && onLine(view.selected) : null },
    h("td", { class: "number" }, isLive
      ? h("button", { type: "button", "aria-pressed": "false", "aria-label": `line ${number}${marked.has(number) ? ", fault" : ""}`,
        onclick: () => view.select(number), onkeydown: (event) => step(event, number) }, `${marked.has(number) ? "✗ " : ""}${number}`)
      : h("span", { class: "quiet" }, String(number))),
    columns.length ? h("td", { class: "heat" }, cells[number] ? h("span", { class: "bar" }) : null) : null,
    columns.map(([name, , , measure]) => h("td", { class: `number of-${name}` },
      cells[number] ? shownNumber(name, measure(cells[number]), cells[number]) : "")),
    h("td", {}, h("code", {}, text || " ")));
    rows.set(number, row);
    body.append(row);
    for (const words of marked.get(number) ?? [])
      body.append(h("tr", { class: "mark" }, h("td"), h("td", { colspan: columns.length + 2 }, h("span", { class: "bad" }, `✗ ${words}`))));
  }

  const button = (number) => rows.get(number)?.querySelector("button");
  function step(event, number) {
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = live[live.indexOf(number) + move];
    if (!move || next === undefined) return;
    event.preventDefault();
    button(next).focus();
    view.select(next);
  }
  view.reveal = (number) => {
    const row = rows.get(number);
    if (!row) return;
    const box = view.element;
    const space = row.offsetTop - box.clientHeight / 3;
    if (row.offsetTop < box.scrollTop + 40 || row.offsetTop > box.scrollTop + box.clientHeight - 40) box.scrollTop = space;
  };
  view.select = (number) => {
    if (view.selected !== null) {
      button(view.selected)?.setAttribute("aria-pressed", "false");
      rows.get(view.selected)?.classList.remove("chosen");
    }
    view.selected = number;
    button(number)?.setAttribute("aria-pressed", "true");
    rows.get(number)?.classList.add("chosen");
    view.reveal(number);
    onLine(number);
  };
  view.figures = (number) => sentenceOf(number, cells[number]);
  view.hottest = () => (tools ? hottest(cells, measureOf(tools.select.value))[0]?.number : null) ?? live[0] ?? null;
  const tools = counted ? heatTools(columns, cells, rows, view) : null;
  view.tools = tools?.element;
  return view;
}

// The choice of the measure that colours the heat strip, and the lines that have most of it.
function heatTools(columns, cells, rows, view) {
  const list = h("span", { class: "row hottest" });
  const select = h("select", { id: "kernel-heat" }, columns.map(([name, title]) => h("option", { value: name }, title)));
  const element = h("span", { class: "row" }, h("label", {}, "heat", select), h("span", { class: "quiet" }, "hottest"), list);
  function paint() {
    const found = hottest(cells, measureOf(select.value));
    const most = found[0]?.value || 1;
    for (const bar of view.element.querySelectorAll(".bar")) bar.style.width = "0";
    for (const { number, value } of found) {
      const bar = rows.get(number)?.querySelector(".bar");
      if (bar) bar.style.width = `${Math.max(4, 100 * value / most)}%`;
    }
    list.replaceChildren(...(found.length ? found.slice(0, AT_MOST).map(({ number, value }) =>
      h("button", { type: "button", title: `line ${number}: ${rounded(value)}`, onclick: () => view.select(number) },
        `${number}: ${rounded(value)}`)) : [h("span", {}, "no line")]));
  }
  select.value = worth(cells);
  select.addEventListener("change", paint);
  paint();
  return { element, select };
}

// The measure to begin with: what costs most beyond the ideal, or else sectors.
function worth(cells) {
  const far = (space) => Object.values(cells).some((cell) => cell[space] && cell[space].actual >= 2 * cell[space].ideal);
  if (!far("global") && far("shared")) return "conflicts";
  return Object.values(cells).some((cell) => cell.global) ? "sectors" : "waves";
}

function sentenceOf(number, cell) {
  if (!cell) return `Line ${number}`;
  const units = { global: "sectors", shared: "wavefronts" };
  const parts = Object.entries(cell).map(([space, { actual, ideal, instructions }]) =>
    `${actual.toLocaleString("en")} ${units[space]} in ${instructions.toLocaleString("en")} requests, ideal ${ideal.toLocaleString("en")}`);
  return `Line ${number}, all launches: ${parts.join("; ")}.`;
}

const measureOf = (name) => MEASURES.find((each) => each[0] === name)[3];

function hottest(cells, measure) {
  return Object.entries(cells).map(([number, cell]) => ({ number: Number(number), value: measure(cell) ?? 0 }))
    .filter(({ value }) => value > 0).sort((a, b) => b.value - a.value || a.number - b.number);
}

// The figures of a line for each kind of memory: loads, stores and atomics together.
function bySpace(figures) {
  const cell = {};
  for (const each of figures) {
    const sum = cell[each.space] ??= { instructions: 0, bytes: 0, actual: 0, ideal: 0 };
    for (const field of Object.keys(sum)) sum[field] += each[field];
  }
  return cell;
}

// "!" marks twice the ideal or more, as minillm simulate does.
function shownNumber(name, value, cell) {
  if (value === undefined) return "";
  const far = name === "sectors" || name === "request" ? cell.global : name === "executed" ? null : cell.shared;
  const mark = far && far.actual >= 2 * far.ideal ? h("strong", { class: "bad", title: `ideal ${far.ideal.toLocaleString("en")}` }, "! ") : null;
  return [mark, rounded(value)].filter(Boolean).map((part) => (typeof part === "string" ? h("span", {}, part) : part));
}

const rounded = (value) => (Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(2));

export function columnNotes() {
  return h("details", { class: "notes" }, h("summary", {}, "What the columns count"),
    h("dl", {}, MEASURES.flatMap(([, title, note]) => [h("dt", {}, title), h("dd", {}, note)]),
      h("dt", {}, "!"), h("dd", {}, "Twice the ideal or more: the same bytes at neighbouring addresses would take half at most."),
      h("dt", {}, "not here"), h("dd", {}, "There is no cache and no clock: these are counts, and no time is measured.")));
}
