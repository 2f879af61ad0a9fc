// The sampler as a pipeline: a column for each stage, a row for each token, and where the number drawn falls.
//
//   pipeline(stages, { draw, came, picked, onPick, onMove }) -> element
//   element.update(stages, { draw, came, picked, onPick, onMove })       draws it anew; focus and scrolling stay
//
// stages   in order, the first is the model itself: [{ name, note, kept, removed, entropy, choices, tokens, rest }]
//            name      "model", "temperature", "top_k", ...: the names of Sampler.trace
//            note      what the stage is set to, as text; may be missing
//            kept      tokens left                     removed   the share of the probability that the stage removed
//            entropy   in nats                         choices   exp(entropy)
//            tokens    [{ id, text, p }]: the rows. The same ids in every stage; p is null where the token is removed
//            rest      the probability of all tokens that are no rows
// draw     { u, first, past, token, text, p, segments }: the number drawn fell into [first, past), the interval of
//          the token with this id. u is null for greedy. segments: [{ id, text, first, past }], the intervals of
//          likely tokens, to be drawn too; may be missing. draw may be missing.
// came     the id of the token that follows in the text, marked; picked: the id of the token that is lit.
// onPick   (id) => ..., when a token is chosen: a click, Enter or Space on its row.
// onMove   (u) => ..., when the number is moved by its slider; without it there is no slider.
//
// The style is in pipeline.css. The table scrolls inside its own frame; arrow keys, Home and End move between its rows.
import { h, svg, short, visible } from "./dom.js";

const NARROWEST = 0.03;  // of [0, 1): an interval that has room for the name of its token

export function pipeline(stages, options = {}) {
  const strip = h("div", { class: "draw" });
  const frame = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Stages of the sampler" });
  const element = h("div", { class: "pipeline" }, strip, frame);
  element.update = (newStages, newOptions = {}) => {
    updateDraw(strip, newOptions);
    const focused = frame.contains(document.activeElement) ? document.activeElement.dataset.id : undefined;
    frame.replaceChildren(stageTable(newStages, newOptions));
    const rows = [...frame.querySelectorAll("button")];
    if (focused !== undefined) focusRow(rows.find((row) => row.dataset.id === focused));
  };
  element.update(stages, options);
  return element;
}

// ------------------------------------------------------------------------------------------------------- the stages

function stageTable(stages, options) {
  const rows = rowsOf(stages);
  const body = h("tbody", { onkeydown: moveBetweenRows }, rows.map((row) => tokenRow(row, stages, options)));
  const first = body.querySelector(".lit button") ?? body.querySelector("button");
  if (first) first.tabIndex = 0;
  return h("table", { class: "stages", style: `--stages: ${stages.length}` },
    h("caption", { class: "sr-only" }, "The stages of the sampler, and the tokens that each leaves"),
    h("thead", {},
      h("tr", {}, h("th", { scope: "col" }, "stage"), stages.map(stageHead)),
      figures("tokens kept", stages, (stage) => stage.kept.toLocaleString("en")),
      figures("mass removed", stages, (stage) => percent(stage.removed)),
      figures("entropy, nats", stages, (stage) => stage.entropy.toFixed(3)),
      figures("choices", stages, (stage) => short(Number(stage.choices.toFixed(2))))),
    body,
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row" }, "all others"), stages.map(restCell))));
}

function stageHead(stage) {
  const name = stage.name.split("_").flatMap((part, at) => (at ? ["_", h("wbr"), part] : [part]));
  return h("th", { scope: "col" }, name, stage.note ? h("span", { class: "quiet" }, stage.note) : null);
}

function figures(name, stages, text) {
  const cells = stages.map((stage) => h("td", {}, text(stage)));
  return h("tr", { class: "figures" }, h("th", { scope: "row" }, name), cells);
}

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

function tokenRow(row, stages, { came, picked, draw, onPick }) {
  const marks = [row.id === draw?.token ? "drawn" : null, row.id === came ? "came" : null].filter(Boolean);
  const label = h("button", { type: "button", class: "token mono", tabindex: -1, "data-id": row.id,
    "aria-pressed": onPick ? String(row.id === picked) : null, onclick: () => onPick?.(row.id) },
  visible(row.text), marks.map((mark) => h("span", { class: "mark" }, ` ${mark}`)));
  return h("tr", { class: row.id === picked ? "lit" : null },
    h("th", { scope: "row" }, label), stages.map((stage, at) => shareCell(row.p[at], row.p[at - 1])));
}

// before: the probability in the stage before.
function shareCell(p, before) {
  if (p === undefined) return h("td", { class: "quiet" }, "·");
  if (p === null) return h("td", { class: "gone quiet" }, before === null ? "" : "removed");
  return h("td", { class: "bar", style: `--share: ${p}` }, percent(p));
}

function restCell(stage) {
  const left = stage.kept - stage.tokens.filter((token) => token.p !== null).length;
  return h("td", {}, left ? `${percent(stage.rest)} in ${left.toLocaleString("en")}` : "none");
}

function moveBetweenRows(event) {
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  const at = buttons.indexOf(event.target);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (at < 0 || !buttons[to]) return;
  event.preventDefault();
  focusRow(buttons[to]);
}

// Of all rows only one is reached with Tab.
function focusRow(row) {
  if (!row) return;
  for (const other of row.closest("tbody").querySelectorAll("button")) other.tabIndex = other === row ? 0 : -1;
  row.focus();
}

// ---------------------------------------------------------------------------------------------------------- the draw

// The slider stays the same element, so that it can be dragged while the rest is drawn anew.
function updateDraw(strip, { draw, onMove, picked }) {
  if (!draw) {
    strip.replaceChildren();
    return;
  }
  let slider = strip.querySelector("input");
  if (!slider) {
    slider = h("input", { type: "range", min: 0, max: 0.9999, step: 0.0001, "aria-label": "The number drawn" });
    strip.append(h("div", {}), slider, h("p", { role: "status" }));
  }
  const [picture, , sentence] = strip.children;
  picture.replaceChildren(intervals(draw, picked));
  sentence.textContent = sentenceOf(draw);
  slider.hidden = !onMove || draw.u === null;
  slider.oninput = () => onMove(Number(slider.value));
  if (document.activeElement !== slider) slider.value = draw.u ?? 0;
}

function sentenceOf(draw) {
  const name = `“${visible(draw.text)}”`;
  if (draw.u === null) return `Temperature 0: the token of the largest logit is taken, ${name}.`;
  const interval = `[${draw.first.toFixed(6)}, ${draw.past.toFixed(6)})`;
  return `The number ${draw.u.toFixed(6)} falls into ${interval}: ${name}, probability ${percent(draw.p)}.`;
}

// [0, 1) from left to right, in percent of the width.
function intervals(draw, picked) {
  const segments = draw.segments ?? [draw];
  const all = segments.some((segment) => (segment.id ?? draw.token) === draw.token) ? segments : [...segments, draw];
  const boxes = all.map((segment) => {
    const id = segment.id ?? draw.token;
    const state = [id === draw.token ? "drawn" : null, id === picked ? "lit" : null].filter(Boolean).join(" ");
    const width = segment.past - segment.first;
    const box = svg("rect", { class: state, x: `${100 * segment.first}%`, width: `${100 * width}%`, y: 12, height: 26 },
      svg("title", {}, `${visible(segment.text)} ${percent(width)}`));
    if (width < NARROWEST) return [box];
    const middle = 50 * (segment.first + segment.past);
    const room = Math.max(1, Math.floor(60 * width));  // letters
    const text = visible(segment.text);
    const name = text.length > room ? `${text.slice(0, room)}…` : text;
    return [box, svg("text", { x: `${middle}%`, y: 30, class: state }, name)];
  });
  const marker = draw.u === null ? null
    : svg("g", {}, svg("line", { x1: `${100 * draw.u}%`, x2: `${100 * draw.u}%`, y1: 2, y2: 48 }));
  return svg("svg", { class: "intervals", width: "100%", height: 50, "aria-hidden": true }, boxes.flat(), marker);
}

function percent(share) {
  if (share < 1e-12) return "0 %";  // what rounding leaves of 0
  if (share < 1e-5) return "<0.001 %";
  const digits = share < 0.001 ? 3 : share < 0.1 ? 2 : 1;
  return `${(100 * share).toFixed(digits)} %`;
}
