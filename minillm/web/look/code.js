// Code side by side: statements that light one another, in columns of one root.
//
//   codeColumn(lines, { label, language })   a column. lines: [{ number, text, id, lights, marked, note }]; lines one
//                                            after another with the same id are one statement, which is tied to the
//                                            statements `lights`; a line without an id only is there to be read
//   follow(root, onPoint)                    pointing at a statement, or focusing it, lights it and what it is tied to;
//                                            a click or Enter pins that; arrows and j, k go through a column, left and
//                                            right to a partner. onPoint(statement or null, pinned) hears of each
//   light(root, ids)                         lights these statements, and no others
//   colour(root, language, names)            colours keywords, comments, strings and numbers of the lines in a root;
//                                            of the names, those in the set `names` become elements of class "name"
import { h } from "./dom.js";

const PYTHON = "and as assert break class continue def del elif else except finally for from global if import in is lambda " +
  "None not or pass raise return try while with yield True False self";
const CUDA = "auto bool break char const constexpr continue do double else extern false float float4 for if inline int " +
  "long namespace return short sizeof static struct switch template true typedef typename unsigned using void while " +
  "__device__ __forceinline__ __global__ __restrict__ __shared__ __launch_bounds__";
const DEEP = 20; // leading spaces from which on a line only is aligned with what is above it
const KEYWORDS = { python: new Set(PYTHON.split(" ")), cuda: new Set(CUDA.split(" ")) };
const TEXT = /(?:[rbf]?"""[^]*?(?:"""|$)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')/.source;
const NAME_OR_NUMBER = "|([A-Za-z_]\\w*)|(\\d[\\w.]*(?:(?<=[eE])[+-]\\d+)?)";
const TOKEN = {
  python: new RegExp(`(#[^\\n]*)|(${TEXT})${NAME_OR_NUMBER}`, "g"),
  cuda: new RegExp(`(//[^\\n]*|^#[^\\n]*)|(${TEXT})${NAME_OR_NUMBER}`, "gm"),
};

export function codeColumn(lines, { label, language = "python" } = {}) {
  const column = h("div", { class: "code", role: "listbox", "aria-label": label, "data-language": language });
  for (let start = 0; start < lines.length; ) {
    let end = start + 1;
    while (end < lines.length && lines[end].id === lines[start].id) end += 1;
    column.append(block(lines.slice(start, end)));
    start = end;
  }
  colour(column, language);
  return column;
}

function block(lines) {
  const [{ id, lights }] = lines;
  const statement = id && { role: "option", "aria-selected": "false", tabindex: -1, "data-id": id };
  return h(
    "div",
    { class: id ? "statement" : "block", ...statement, "data-lights": lights?.join(" ") },
    ...lines.map((line) =>
      h("div", { class: line.marked ? "line marked" : "line", "data-n": line.number }, line.text),
    ),
    ...lines.filter((line) => line.note).map((line) => h("div", { class: "note" }, line.note)),
  );
}

export function light(root, ids) {
  const wanted = new Set(ids);
  for (const statement of root.querySelectorAll(".statement")) {
    statement.classList.toggle("lit", wanted.has(statement.dataset.id));
  }
}

// What a statement lights: itself, and those that it is tied to, from either side.
export function tiedTo(root, statement) {
  const own = (statement.dataset.lights ?? "").split(" ").filter(Boolean);
  const others = [...root.querySelectorAll(".statement[data-lights]")]
    .filter((other) => other.dataset.lights.split(" ").includes(statement.dataset.id))
    .map((other) => other.dataset.id);
  return [...new Set([statement.dataset.id, ...own, ...others])];
}

export function follow(root, onPoint = () => {}) {
  let pinned = null;

  function point(statement) {
    light(root, statement ? tiedTo(root, statement) : []);
    onPoint(statement, statement !== null && statement === pinned);
  }

  function pin(statement) {
    pinned?.setAttribute("aria-selected", "false");
    pinned = statement === pinned ? null : statement;
    pinned?.setAttribute("aria-selected", "true");
    point(statement);
  }

  const statementOf = (event) => event.target.closest?.(".statement") ?? null;
  root.addEventListener("pointerover", (event) => pinned || point(statementOf(event)));
  root.addEventListener("pointerleave", () => pinned || point(null));
  root.addEventListener("focusin", (event) => {
    const statement = statementOf(event);
    if (!statement) return;
    for (const other of columnOf(statement).querySelectorAll(".statement")) other.tabIndex = other === statement ? 0 : -1;
    if (!pinned) point(statement);
  });
  root.addEventListener("click", (event) => {
    const statement = statementOf(event);
    if (!statement || String(getSelection())) return;
    statement.focus({ preventScroll: true });
    pin(statement);
  });
  root.addEventListener("keydown", (event) => {
    const statement = statementOf(event);
    if (!statement || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") pin(statement);
    else if (event.key === "Escape" && pinned) pin(pinned);
    else if (!move(root, statement, event.key)) return;
    event.preventDefault();
  });
  for (const column of root.querySelectorAll(".code")) {
    const first = column.querySelector(".statement");
    if (first) first.tabIndex = 0;
  }
}

// Puts the focus where a key goes from a statement; false for another key.
function move(root, statement, key) {
  const column = [...columnOf(statement).querySelectorAll(".statement")];
  const place = column.indexOf(statement);
  const goals = {
    ArrowDown: () => column[place + 1],
    ArrowUp: () => column[place - 1],
    Home: () => column[0],
    End: () => column.at(-1),
    ArrowRight: () => partner(root, statement, 1),
    ArrowLeft: () => partner(root, statement, -1),
  };
  const goal = goals[{ j: "ArrowDown", k: "ArrowUp", l: "ArrowRight", h: "ArrowLeft" }[key] ?? key];
  goal?.()?.focus();
  return goal !== undefined;
}

// The nearest partner in a column to the right (1) or to the left (-1), or the first statement of the next column.
function partner(root, statement, side) {
  const columns = [...root.querySelectorAll(".code")].filter((column) => column.querySelector(".statement"));
  const next = columns.slice(...(side > 0 ? [columns.indexOf(columnOf(statement)) + 1] : [0, columns.indexOf(columnOf(statement))]));
  if (side < 0) next.reverse();
  const tied = new Set(tiedTo(root, statement));
  const found = next.flatMap((column) => [...column.querySelectorAll(".statement")]).find((other) => tied.has(other.dataset.id));
  return found ?? next[0]?.querySelector(".statement");
}

function columnOf(statement) {
  return statement.closest(".code");
}

export function colour(root, language, names = new Set()) {
  for (const part of root.querySelectorAll(".statement, .block")) {
    const lines = [...part.querySelectorAll(".line")];
    const painted = paint(lines.map((line) => line.textContent).join("\n"), language, names);
    lines.forEach((line, index) => fillLine(line, painted[index]));
  }
}

// A line that wraps goes on under its own beginning; leading spaces that only align are cut short where there is no room.
function fillLine(line, nodes) {
  const [, spaces, rest] = /^( *)([^]*)$/.exec(typeof nodes[0] === "string" ? nodes[0] : "");
  if (spaces.length >= DEEP) nodes.splice(0, 1, h("span", { class: "deep" }, spaces), rest);
  line.style.setProperty("--indent", Math.min(spaces.length, DEEP / 2));
  line.replaceChildren(...nodes);
}

// The lines of a text, each a list of strings and elements: comments, strings, keywords, numbers and some names.
function paint(text, language, names) {
  const lines = [[]];
  const add = (kind, piece) =>
    piece.split("\n").forEach((part, index) => {
      if (index) lines.push([]);
      const line = lines.at(-1);
      const [, spaces, rest] = /^( *)([^]*)$/.exec(part);
      if (kind && index) line.push(spaces, h("span", { class: kind }, rest)); // of a docstring: its lines hang, too
      else if (kind) line.push(h("span", { class: kind }, part));
      else if (typeof line.at(-1) === "string") line.push(line.pop() + part);
      else if (part) line.push(part);
    });
  let done = 0;
  for (const found of text.matchAll(TOKEN[language])) {
    const [whole, comment, string, name] = found;
    add(null, text.slice(done, found.index));
    if (name) add(KEYWORDS[language].has(name) ? "keyword" : names.has(name) ? "name" : null, name);
    else add(comment ? "comment" : string ? "string" : "digits", whole);
    done = found.index + whole.length;
  }
  add(null, text.slice(done));
  return lines;
}
