// Beam search as a tree: what each step compared, kept, pruned and finished, and the best text.
import { h, svg, visible } from "./look/dom.js";
import { numberField, numberOf, searchForm } from "./search_form.js";

const COLUMN = 118, ROW = 28, BOX = 96, TALL = 22, TOP = 26, FIRST = 60;  // pixels of the tree
const LETTERS = 10;  // of a token in its box
const STEPS_AT_ONCE = 8;  // are drawn together while the search runs
const FATES = { kept: "goes on as a beam", finished: "finished", pruned: "pruned" };
const STOPPING = { false: false, true: true, never: "never" };
const EXPLANATION = "Every step continues each beam with every token and keeps the best. Filled: kept. Pale and "
  + "dashed: pruned. Double line: finished. ★ and thick: the text of the best score. Arrow keys move through the tree.";

// promptIds(): a promise of the prompt's ids. -> { element, end() }
export function beamsPanel(api, promptIds) {
  const beams = numberField("beams", { min: 2, max: 16, value: 4 });
  const tokens = numberField("tokens", { min: 1, max: 200, value: 12 });
  const penalty = numberField("length penalty", { step: "any", value: 1 });
  const early = h("select", {}, Object.keys(STOPPING).map((name) => h("option", {}, name)));
  const picture = h("div", {});
  const detail = h("p", { class: "mono beam-detail", role: "status" });
  const list = h("ol", { class: "found" });

  async function begin(signal) {
    const steps = [];
    const body = {
      prompt: await promptIds(), beams: numberOf(beams), tokens: numberOf(tokens), length_penalty: numberOf(penalty),
      early_stopping: STOPPING[early.value],
    };
    draw(steps, []);
    await api.stream("write/beams", body, ({ candidates, found }) => {
      if (candidates) steps.push(candidates);
      if (found || steps.length % STEPS_AT_ONCE === 1) draw(steps, found ?? []);
    }, signal);
  }

  function draw(steps, found) {
    detail.textContent = "";
    picture.replaceChildren(beamTree(nodesOf(steps, found), (node) => { detail.textContent = describeBeam(node); }));
    list.replaceChildren(...found.map(foundText));
  }

  const { form, end } = searchForm([beams, tokens, penalty, h("label", {}, "early stopping", early)], "Search", begin);
  const element = h("section", { class: "panel", "aria-labelledby": "beams-heading" },
    h("h2", { id: "beams-heading" }, "Beam search"), h("p", { class: "quiet" }, EXPLANATION), form,
    picture, detail, list);
  return { element, end };
}

function foundText({ text, score }, at) {
  const quiet = h("span", { class: "quiet" }, `score ${score.toFixed(4)}${at ? "" : ", the best"}`);
  return h("li", { class: at ? null : "best" }, h("span", { class: "mono" }, visible(text)), quiet);
}

// The columns of the tree: each candidate with its parent's node, its text, its place, and whether it is of the best.
function nodesOf(steps, found) {
  const columns = [];
  let beams = [null];  // the nodes that the next step continues
  for (const step of steps) {
    const column = step.map((candidate, row) => {
      const parent = beams[candidate.parent];
      const ids = [...(parent?.ids ?? []), candidate.token];
      return { ...candidate, parent, ids, text: (parent?.text ?? "") + candidate.piece, row, column: columns.length };
    });
    columns.push(column);
    beams = column.filter((node) => node.fate === "kept");
  }
  const best = found[0]?.ids ?? [];
  const isBest = ({ fate, ids }) => fate !== "pruned" && ids.every((id, at) => id === best[at]);
  for (const node of columns.flat()) node.isBest = isBest(node);
  return columns;
}

function describeBeam(node) {
  return `${visible(node.text)}   log p ${node.log_p.toFixed(4)}, score ${node.score.toFixed(4)}, `
    + `${FATES[node.fate]}${node.isBest ? ", part of the best text" : ""}`;
}

// ---------------------------------------------------------------------------------------------------------- the picture

// columns: of nodesOf. onLook(node): when one is pointed at, or has the focus.
function beamTree(columns, onLook) {
  const nodes = columns.flat();
  const rows = Math.max(0, ...columns.map((column) => column.length));
  const middle = TOP + (ROW * rows) / 4;  // the prompt is beside the upper half, where the beams are
  const placed = nodes.map((node) => ({ node, x: FIRST + COLUMN * node.column, y: TOP + ROW * node.row }));
  const edges = placed.map(({ node, x, y }) => edge(node, x, y, middle));
  const behind = edges.filter((_, at) => nodes[at].fate === "pruned");
  const before = edges.filter((_, at) => nodes[at].fate !== "pruned");
  const boxes = placed.map(({ node, x, y }) => beamBox(node, x, y, onLook));
  const head = (at) => svg("text", { class: "head", x: FIRST + COLUMN * at, y: 14 }, `step ${at + 1}`);
  const root = rows ? svg("text", { class: "root", x: 0, y: middle + 15 }, "prompt") : null;
  if (boxes.length) boxes[0].setAttribute("tabindex", 0);
  const picture = svg("svg", {
    class: "beams", width: FIRST + 10 + COLUMN * columns.length, height: rows ? TOP + ROW * rows + 4 : 0,
    role: "group", "aria-label": "Tree of the beams", onkeydown: (event) => moveInTree(event, columns, nodes, boxes),
  }, columns.map((_, at) => head(at)), root, behind, before, boxes);
  return h("div", { class: "scroll" }, picture);
}

// From what a candidate continues to its box.
function edge(node, x, y, middle) {
  const { parent } = node;
  const [x1, y1] = parent ? [FIRST + COLUMN * parent.column + BOX, TOP + ROW * parent.row] : [48, middle];
  const [half, from, to] = [(x1 + x) / 2, y1 + TALL / 2, y + TALL / 2];
  return svg("path", { class: classOf("edge", node), d: `M${x1} ${from}C${half} ${from} ${half} ${to} ${x} ${to}` });
}

function beamBox(node, x, y, onLook) {
  const text = visible(node.piece) || `⟨${node.token}⟩`;
  const most = node.isBest ? LETTERS - 2 : LETTERS;  // the star takes the place of two
  const name = text.length > most ? `${text.slice(0, most - 1)}…` : text;
  const inner = node.fate === "finished"
    ? svg("rect", { class: "inner", x: x + 3, y: y + 3, width: BOX - 6, height: TALL - 6, rx: 3 }) : null;
  const look = () => onLook(node);
  return svg("g", {
    class: classOf("beam", node), tabindex: -1, role: "img", "aria-label": describeBeam(node),
    "data-score": node.score, "data-ids": node.ids.join(" "), onfocus: look, onpointerenter: look,
  },
  svg("title", {}, describeBeam(node)), svg("rect", { x, y, width: BOX, height: TALL, rx: 5 }), inner,
  svg("text", { x: x + 8, y: y + 15 }, `${node.isBest ? "★ " : ""}${name}`));
}

function classOf(kind, node) {
  return `${kind} ${node.fate}${node.isBest ? " best" : ""}`;
}

// Up and down in a step, left to what a candidate continues, right to the first that continues it.
function moveInTree(event, columns, nodes, boxes) {
  const node = nodes[boxes.indexOf(event.target)];
  if (!node) return;
  const column = columns[node.column];
  const to = {
    ArrowUp: () => column[node.row - 1],
    ArrowDown: () => column[node.row + 1],
    ArrowLeft: () => node.parent,
    ArrowRight: () => columns[node.column + 1]?.find((other) => other.parent === node),
  }[event.key]?.();
  if (!to) return;
  event.preventDefault();
  for (const box of boxes) box.setAttribute("tabindex", -1);
  const box = boxes[nodes.indexOf(to)];
  box.setAttribute("tabindex", 0);
  box.focus();
}
