// Beam search as a tree, and speculative decoding with its accepted and refused guesses.
import { h, short, svg, visible } from "./look/dom.js";
import { percent } from "./written.js";

const COLUMN = 118, ROW = 28, BOX = 96, TALL = 22, TOP = 26;  // pixels of the tree
const LETTERS = 10;  // of a token in its box
const FATES = { kept: "goes on as a beam", finished: "finished", pruned: "pruned" };

function field(label, properties) {
  return h("label", {}, label, h("input", { type: "number", ...properties }));
}

// The form, what it streams, and a button that stops it: { form, end() }. begin(values, signal): a promise.
function searchForm(fields, title, begin) {
  let running = null;
  const button = h("button", { class: "primary", type: "submit" }, title);
  // The server says in a sentence what is wrong with a number.
  const form = h("form", { class: "row", novalidate: true, onsubmit: submit }, fields, button);

  async function submit(event) {
    event.preventDefault();
    if (running) {
      running.abort();
      return;
    }
    running = new AbortController();
    button.textContent = "Stop";
    try {
      await begin(running.signal);
    } finally {
      running = null;
      button.textContent = title;
    }
  }

  return { form, end: () => running?.abort() };
}

// -------------------------------------------------------------------------------------------------------- beam search

// promptIds(): a promise of the prompt's ids. -> { element, end() }
export function beamsPanel(api, promptIds) {
  const beams = field("beams", { min: 2, max: 16, value: 4, name: "beams" });
  const tokens = field("tokens", { min: 1, max: 200, value: 12, name: "tokens" });
  const penalty = field("length penalty", { step: "any", value: 1, name: "length_penalty" });
  const early = h("select", { name: "early_stopping" }, ["false", "true", "never"].map((name) => h("option", {}, name)));
  const picture = h("div", {});
  const detail = h("p", { class: "mono beam-detail", role: "status" });
  const list = h("ol", { class: "found" });
  const number = (label) => label.querySelector("input").valueAsNumber;

  async function begin(signal) {
    const steps = [];
    list.replaceChildren();
    detail.textContent = "";
    const body = { prompt: await promptIds(), beams: number(beams), tokens: number(tokens), length_penalty: number(penalty),
      early_stopping: { true: true, false: false }[early.value] ?? "never" };
    let found = [];
    await api.stream("write/beams", body, (event) => {
      if (event.candidates) steps.push(event.candidates);
      else found = event.found;
      if (event.found || steps.length % 8 === 1) draw(steps, found);
    }, signal);
  }

  function draw(steps, found) {
    picture.replaceChildren(beamTree(nodesOf(steps, found), (node) => { detail.textContent = describeBeam(node); }));
    list.replaceChildren(...found.map(({ text, score }, at) =>
      h("li", { class: at ? null : "best" }, h("span", { class: "mono" }, visible(text)), h("span", { class: "quiet" }, `score ${score.toFixed(4)}${at ? "" : ", the best"}`))));
  }

  const { form, end } = searchForm([beams, tokens, penalty, h("label", {}, "early stopping", early)], "Search", begin);
  const element = h("section", { class: "panel", "aria-labelledby": "beams-heading" },
    h("h2", { id: "beams-heading" }, "Beam search"),
    h("p", { class: "quiet" }, "Every step continues each beam with every token and keeps the best. Thick: kept. Pale and dashed: pruned. ",
      "Double line: finished. ★: the text of the best score. Arrow keys move through the tree."),
    form, picture, detail, list);
  return { element, end };
}

// Each candidate with its parent's node, its place, and whether it is of the best text.
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
  for (const node of columns.flat()) node.isBest = node.fate !== "pruned" && node.ids.every((id, at) => id === best[at]);
  return columns;
}

function describeBeam(node) {
  return `${visible(node.text)}   log p ${node.log_p.toFixed(4)}, score ${node.score.toFixed(4)}, `
    + `${FATES[node.fate]}${node.isBest ? ", part of the best text" : ""}`;
}

function beamTree(columns, onLook) {
  const nodes = columns.flat();
  const rows = Math.max(0, ...columns.map((column) => column.length));
  const middle = TOP + (ROW * rows) / 4;  // the prompt is beside the upper half, where the beams are
  const x = (node) => (node ? 60 + COLUMN * node.column : 0);
  const y = (node) => (node ? TOP + ROW * node.row : middle);
  const edges = nodes.map((node) => {
    const [x1, y1, x2, y2] = [x(node.parent) + (node.parent ? BOX : 48), y(node.parent) + TALL / 2, x(node), y(node) + TALL / 2];
    const half = (x1 + x2) / 2;
    return svg("path", { class: classOf("edge", node), d: `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}` });
  });
  const boxes = nodes.map((node) => beamBox(node, x(node), y(node), onLook));
  const heads = columns.map((_, at) => svg("text", { class: "head", x: 60 + COLUMN * at, y: 14 }, `step ${at + 1}`));
  const root = svg("text", { class: "root", x: 0, y: middle + 15 }, "prompt");
  if (boxes.length) boxes[0].setAttribute("tabindex", 0);
  const onkeydown = (event) => moveInTree(event, columns, nodes, boxes);
  const picture = svg("svg", { class: "beams", width: 70 + COLUMN * columns.length, height: TOP + ROW * rows + 4, role: "group",
    "aria-label": "Tree of the beams", onkeydown }, heads, root, edges.filter((_, at) => nodes[at].fate === "pruned"),
  edges.filter((_, at) => nodes[at].fate !== "pruned"), boxes);
  return h("div", { class: "scroll" }, picture);
}

function beamBox(node, x, y, onLook) {
  const text = visible(node.piece) || `⟨${node.token}⟩`;
  const name = text.length > LETTERS ? `${text.slice(0, LETTERS - 1)}…` : text;
  const inner = node.fate === "finished" ? svg("rect", { class: "inner", x: x + 3, y: y + 3, width: BOX - 6, height: TALL - 6, rx: 3 }) : null;
  const look = () => onLook(node);
  return svg("g", { class: classOf("beam", node), tabindex: -1, role: "img", "aria-label": describeBeam(node), "data-score": node.score,
    "data-ids": node.ids.join(" "), onfocus: look, onpointerenter: look },
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

// ------------------------------------------------------------------------------------------------ speculative decoding

// promptIds(): a promise of the prompt's ids. values(): the settings of the sampler. -> { element, end() }
export function speculationPanel(api, promptIds, values) {
  const draft = h("select", { name: "draft" }, h("option", {}, "look-up"));
  const lookahead = field("guesses at a time", { min: 1, max: 20, placeholder: "usual", name: "lookahead" });
  const tokens = field("tokens", { min: 1, max: 200, value: 60, name: "tokens" });
  const text = h("div", { class: "speculation mono scroll", tabindex: 0, role: "region", "aria-label": "Text with its guesses" });
  const sums = h("dl", { class: "sums" });
  const fillDrafts = async () => {
    const chosen = draft.value;
    draft.replaceChildren(...(await api.post("write/drafts")).map((name) => h("option", { selected: name === chosen }, name)));
  };
  fillDrafts();

  async function begin(signal) {
    text.replaceChildren();
    sums.replaceChildren();
    const guesses = lookahead.querySelector("input").valueAsNumber;
    const body = { prompt: await promptIds(), settings: values(), draft: draft.value, tokens: tokens.querySelector("input").valueAsNumber,
      lookahead: Number.isNaN(guesses) ? null : guesses };
    const passes = [];
    await api.stream("write/speculate", body, (event) => {
      if (event.proposals) {
        passes.push(event);
        text.append(passElement(event, passes.length));
      } else {
        sums.replaceChildren(...sumsOf(event));
        markEnd(text, event.written, passes);
      }
    }, signal);
  }

  const { form, end } = searchForm([h("label", {}, "draft", draft), lookahead, tokens], "Write", begin);
  const element = h("section", { class: "panel", "aria-labelledby": "speculation-heading" },
    h("h2", { id: "speculation-heading" }, "Speculative decoding"),
    h("p", { class: "quiet" }, "A draft guesses the next tokens, and one pass of the model checks them all. "
      + "✓ accepted; ✗ refused, with the token that the model wrote in its place; grey: guesses after a refused one. Each frame is a pass."),
    form, sums, text);
  return { element, end };
}

// One pass: its accepted guesses, the first refused one, those that were not looked at, and the model's own token.
function passElement({ proposals, pieces, p, q, numbers, written, written_pieces: writtenPieces }, number) {
  const accepted = written.length - 1;
  const guesses = proposals.map((_, at) => {
    const figures = `the model gives it ${percent(p[at])}, the draft ${percent(q[at])}; the number is ${short(numbers[at])}`;
    if (at < accepted) return h("span", { class: "guess accepted", title: `accepted: ${figures}` }, h("span", { class: "sign", "aria-label": "accepted" }, "✓"), lines(pieces[at]));
    const fate = at === accepted ? "refused" : "unread";
    const title = at === accepted ? `refused: ${figures}` : "not looked at, because one before it was refused";
    return h("s", { class: `guess ${fate}`, title }, at === accepted ? h("span", { class: "sign", "aria-label": "refused" }, "✗") : null, visible(pieces[at]));
  });
  const own = h("span", { class: "own", title: "the model's own token" }, accepted < proposals.length ? "→" : "", lines(writtenPieces[accepted]));
  return h("span", { class: "pass", "data-written": written.join(" ") }, h("sub", { "aria-label": `pass ${number}` }, number), guesses, own);
}

// Tokens of the last pass that come after an end of text are not written.
function markEnd(text, written, passes) {
  const surplus = passes.reduce((sum, pass) => sum + pass.written.length, 0) - written;
  if (surplus > 0) text.append(h("p", { class: "quiet" }, `The text has ended: the last ${surplus} of these tokens are not written.`));
}

function sumsOf({ passes, proposed, accepted, written, accepted_share: share, tokens_per_pass: each }) {
  const rows = {
    "tokens written": written, "passes of the model": passes, "passes saved": written - passes, "guesses": proposed,
    "accepted": `${accepted}, ${percent(share)}`, "tokens a pass": each.toFixed(2),
  };
  return Object.entries(rows).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value))));
}

function lines(text) {
  return visible(text).replaceAll("⏎", "⏎\n");
}
