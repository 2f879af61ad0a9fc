// The stages of the sampler as a table: a column for each stage, a row for each token. pipeline.js says what a stage is.
//
//   stageTable() -> element
//   element.update(stages, { draw, came, picked, onPick })
//
// The nodes stay: an update writes into the cells that there are what differs in them. To make 300 cells and to lay
// them out takes a browser longer than all else that happens for a token. A row may have another token after an update;
// the focus goes with its token.
import { h, short, visible } from "./dom.js";

const FIGURES = {
  "tokens kept": (stage) => stage.kept.toLocaleString("en"),
  "mass removed": (stage) => percent(stage.removed),
  "entropy, nats": (stage) => stage.entropy.toFixed(3),
  "choices": (stage) => short(Number(stage.choices.toFixed(2))),
};

export function stageTable() {
  let choose = null;  // onPick of the last update
  const head = h("tr", {}, h("th", { scope: "col" }, "stage"));
  const figures = Object.keys(FIGURES).map((name) => h("tr", { class: "figures" }, h("th", { scope: "row" }, name)));
  const body = h("tbody", { onkeydown: moveBetweenRows, onclick: ({ target }) => {
    const token = target.closest("button");
    if (token) choose?.(Number(token.dataset.id));
  } });
  const foot = h("tr", {}, h("th", { scope: "row" }, "all others"));
  const element = h("table", { class: "stages" },
    h("caption", { class: "sr-only" }, "The stages of the sampler, and the tokens that each leaves"),
    h("thead", {}, head, figures), body, h("tfoot", {}, foot));

  element.update = (stages, options) => {
    choose = options.onPick;
    element.style.setProperty("--stages", stages.length);
    fitted(head, stages.length, columnHead).forEach((cell, at) => writeHead(cell, stages[at]));
    Object.values(FIGURES).forEach((figure, row) => writeTexts(figures[row], stages.map(figure)));
    writeRows(body, rowsOf(stages), stages, options);
    writeTexts(foot, stages.map(restOf));
  };
  return element;
}

// ---------------------------------------------------------------------------------------------------------- one update

// The cells of a row besides its first: some are made, or those at its end are taken away, until there are `count`.
function fitted(row, count, make) {
  while (row.children.length > count + 1) row.lastChild.remove();
  while (row.children.length < count + 1) row.append(make());
  return [...row.children].slice(1);
}

function columnHead() {
  return h("th", { scope: "col" });
}

function cell() {
  return h("td", {}, document.createTextNode(""));
}

function writeHead(head, { name, note }) {
  if (head.textContent === name + (note ?? "")) return;
  const parts = name.split("_").flatMap((part, at) => (at ? ["_", h("wbr"), part] : [part]));
  head.replaceChildren(...parts, ...(note ? [h("span", { class: "quiet" }, note)] : []));
}

function writeTexts(row, texts) {
  fitted(row, texts.length, cell).forEach((each, at) => writeText(each.firstChild, texts[at]));
}

function writeText(node, text) {
  if (node.data !== text) node.data = text;
}

function restOf(stage) {
  const left = stage.kept - stage.tokens.filter((token) => token.p !== null).length;
  return left ? `${percent(stage.rest)} in ${left.toLocaleString("en")}` : "none";
}

// ------------------------------------------------------------------------------------------------------------ its rows

// Every token that a stage names, in the order in which they are first named, with p by stage.
function rowsOf(stages) {
  const rows = new Map();
  stages.forEach((stage, at) => {
    for (const { id, text, p } of stage.tokens) {
      if (!rows.has(id)) rows.set(id, { id, text, p: [] });
      rows.get(id).p[at] = p;
    }
  });
  return [...rows.values()];
}

function writeRows(body, rows, stages, options) {
  const focused = body.contains(document.activeElement) ? document.activeElement : null;
  const token = focused?.dataset.id, place = focused ? tokensOf(body).indexOf(focused) : 0;
  while (body.children.length > rows.length) body.lastChild.remove();
  while (body.children.length < rows.length) body.append(tokenRow());
  rows.forEach((row, at) => writeRow(body.children[at], row, stages, options));
  const tokens = tokensOf(body);
  const same = focused && (tokens.find((each) => each.dataset.id === token) ?? tokens[Math.min(place, tokens.length - 1)]);
  reachWithTab(same ?? body.querySelector(".lit button") ?? tokens[0], tokens);
  if (same && same !== document.activeElement) same.focus();
}

function tokensOf(body) {
  return [...body.querySelectorAll("button")];
}

function tokenRow() {
  return h("tr", {}, h("th", { scope: "row" }, h("button", { type: "button", class: "token mono", tabindex: -1 })));
}

function writeRow(element, row, stages, { came, picked, draw, onPick }) {
  const token = element.querySelector("button");
  const marks = [row.id === draw?.token ? " drawn" : "", row.id === came ? " came" : ""].filter(Boolean);
  const name = visible(row.text);
  if (token.textContent !== name + marks.join("")) {
    token.replaceChildren(name, ...marks.map((mark) => h("span", { class: "mark" }, mark)));
  }
  token.dataset.id = row.id;
  if (onPick) token.setAttribute("aria-pressed", row.id === picked);
  else token.removeAttribute("aria-pressed");
  element.classList.toggle("lit", row.id === picked);
  fitted(element, stages.length, cell).forEach((each, at) => writeShare(each, row.p[at], row.p[at - 1]));
}

// p: the token's probability; null where it is removed, undefined where the stage does not name it. before: the same of
// the stage before.
function writeShare(element, p, before) {
  const [kind, text] = p === undefined ? ["quiet", "·"]
    : p === null ? ["gone quiet", before === null ? "" : "removed"] : ["bar", percent(p)];
  if (element.className !== kind) element.className = kind;
  writeText(element.firstChild, text);
  element.style.backgroundSize = kind === "bar" ? `${100 * p}% calc(100% - 6px)` : "";
}

export function percent(share) {
  if (share < 1e-12) return "0 %";  // what rounding leaves of 0
  if (share < 1e-5) return "<0.001 %";
  const digits = share < 0.001 ? 3 : share < 0.1 ? 2 : 1;
  return `${(100 * share).toFixed(digits)} %`;
}

// -------------------------------------------------------------------------------------------------------- the keyboard

function moveBetweenRows(event) {
  const tokens = tokensOf(event.currentTarget);
  const at = tokens.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
  if (at < 0 || !tokens[to]) return;
  event.preventDefault();
  reachWithTab(tokens[to], tokens);
  tokens[to].focus();
}

// Of all rows only one is reached with Tab.
function reachWithTab(token, tokens) {
  for (const each of tokens) {
    const index = each === token ? 0 : -1;
    if (each.tabIndex !== index) each.tabIndex = index;
  }
}
