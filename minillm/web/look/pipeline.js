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
import { h, svg, visible } from "./dom.js";
import { percent, stageTable } from "./pipeline_table.js";

const NARROWEST = 0.03;  // of [0, 1): an interval that has room for the name of its token

export function pipeline(stages, options = {}) {
  const strip = h("div", { class: "draw" });
  const table = stageTable();
  const frame = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Stages of the sampler" }, table);
  const element = h("div", { class: "pipeline" }, strip, frame);
  element.update = (newStages, newOptions = {}) => {
    updateDraw(strip, newOptions);
    table.update(newStages, newOptions);
  };
  element.update(stages, options);
  return element;
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
