// The merges of a piece, or of the whole text piece after piece, forward and back.
import { h, svg } from "./look/dom.js";
import { face, plain } from "./tokens.js";

const WAIT = 600; // milliseconds between two steps while it plays
const TREE_LEAVES = 48; // at most, in the picture
const ROWS = 400; // merges that are listed

export function replay() {
  return new Replay();
}

class Replay {
  constructor() {
    Object.assign(this, { cut: null, piece: null, step: 0, timer: null });
    this.which = h("select", { id: "replay-piece", onchange: () => this.choose(this.which.value === "all" ? null : Number(this.which.value)) });
    const control = (label, text, go) => h("button", { type: "button", "aria-label": label, onclick: () => { this.end(); go(); } }, text);
    this.slider = h("input", { type: "range", min: 0, value: 0, id: "replay-step", "aria-label": "merges done",
      oninput: () => { this.end(); this.to(Number(this.slider.value)); } });
    this.player = h("button", { type: "button", "aria-pressed": "false", onclick: () => this.play() }, "play");
    this.told = h("p", { role: "status", class: "told", id: "replay-told" });
    this.row = h("div", { class: "tokens replay-row", id: "replay-row" });
    this.tree = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Tree of merges" });
    this.list = h("div", { class: "scroll table-scroll", tabindex: 0, role: "region", "aria-label": "List of merges" });
    this.element = h("section", { class: "panel replay", id: "tokens-replay", "aria-label": "Merges one by one" },
      h("h2", {}, "Merges one by one"),
      h("div", { class: "row" }, h("label", {}, "of", this.which), control("first", "|◀", () => this.to(0)),
        control("back", "◀", () => this.to(this.step - 1)), this.slider, control("forward", "▶", () => this.to(this.step + 1)),
        control("last", "▶|", () => this.to(Infinity)), this.player),
      this.told, this.row, this.tree, this.list);
  }

  take(cut) {
    this.end();
    this.cut = cut;
    const merging = cut.pieces.some((piece) => piece.merges.length || piece.long);
    this.element.hidden = !merging;
    if (!merging) return;
    const longest = cut.pieces.reduce((best, piece, number) => (piece.merges.length > cut.pieces[best].merges.length ? number : best), 0);
    this.which.replaceChildren(h("option", { value: "all" }, "the whole text"),
      ...cut.pieces.map((piece, number) => h("option", { value: number }, `${number + 1}: ${plain(piece.text).slice(0, 40)}`)));
    const step = this.piece === null || cut.pieces[this.piece]?.text !== this.text ? 0 : this.step;
    this.choose(step ? this.piece : longest);
    if (step) this.to(step);
  }

  // number: of a piece, null for the whole text.
  choose(number) {
    this.end();
    this.piece = number;
    this.text = number === null ? null : this.cut.pieces[number].text;
    this.which.value = number === null ? "all" : String(number);
    this.pieces = number === null ? this.cut.pieces : [this.cut.pieces[number]];
    this.merges = this.pieces.flatMap((piece, at) => piece.merges.map(([left, right, rank, token]) => ({ at, left, right, rank, token })));
    this.slider.max = String(this.merges.length);
    this.drawList();
    this.to(0);
  }

  to(step) {
    this.step = Math.max(0, Math.min(step, this.merges.length));
    this.slider.value = String(this.step);
    const next = this.merges[this.step];
    this.slider.setAttribute("aria-valuetext", `${this.step} of ${this.merges.length} merges`);
    this.told.textContent = this.sentence(next);
    this.row.replaceChildren(...this.boxes(next));
    this.drawTree();
    for (const [number, row] of [...this.list.querySelectorAll("tbody tr")].entries()) {
      if (number === this.step) row.setAttribute("aria-current", "step");
      else row.removeAttribute("aria-current");
      row.classList.toggle("done", number < this.step);
    }
  }

  sentence(next) {
    const done = `${this.step} of ${this.merges.length} merges done. `;
    if (next) {
      const [left, right] = this.parts(next);
      return `${done}Next: ${this.name(left)} + ${this.name(right)} = ${this.name(next.token)}, ${this.rank(next)}.`;
    }
    const [piece] = this.pieces;
    if (this.pieces.length > 1) return `${done}No pair is left that was learned.`;
    if (piece.long) return "The piece is too long to be shown merge by merge.";
    if (piece.added) return "An added token: it is found in the text, or put around it, and nothing is merged.";
    if (piece.whole) return "The piece is a token, and so it stays whole: no merges are needed.";
    return `${done}${piece.ids.length === 1 ? "One token is left." : "No pair is left that was learned."}`;
  }

  rank(merge) {
    return this.cut.scores ? `score ${-merge.rank}` : `rank ${merge.rank}`;
  }

  name(id) {
    return `"${face(this.cut.tokens[id])}"`;
  }

  // The ids at each position of a piece after the merges done; null where one was merged away.
  state(at) {
    const piece = this.pieces[at];
    const ids = piece.start.length ? [...piece.start] : [...piece.ids];
    for (const merge of this.merges.slice(0, this.step)) {
      if (merge.at !== at) continue;
      ids[merge.left] = merge.token;
      ids[merge.right] = null;
    }
    return ids;
  }

  parts(next) {
    const ids = this.state(next.at);
    return [ids[next.left], ids[next.right]];
  }

  boxes(next) {
    const last = this.merges[this.step - 1];
    return this.pieces.map((piece, at) => h("span", { class: "replayed" }, this.state(at).map((id, position) => {
      if (id === null) return null;
      const token = this.cut.tokens[id];
      const isNext = next?.at === at && (position === next.left || position === next.right);
      const isNew = last?.at === at && position === last.left;
      const title = `id ${id}, bytes ${token.bytes}${isNext ? ", merged next" : ""}${isNew ? ", just merged" : ""}`;
      return h("span", { class: `token${isNext ? " next" : ""}${isNew ? " new" : ""}${token.special ? " special" : ""}`, title, "data-id": id },
        face(token));
    })));
  }

  drawList() {
    if (!this.merges.length) return this.list.replaceChildren();
    const rows = this.merges.slice(0, ROWS);
    const states = new Map();
    return this.list.replaceChildren(h("table", {},
      h("thead", {}, h("tr", {}, ["merge", this.cut.scores ? "score" : "rank", "left", "right", "token", "id"].map((title) =>
        h("th", { scope: "col" }, title)))),
      h("tbody", {}, rows.map((merge, number) => {
        const ids = states.get(merge.at) ?? [...this.pieces[merge.at].start];
        const [left, right] = [ids[merge.left], ids[merge.right]];
        ids[merge.left] = merge.token;
        ids[merge.right] = null;
        states.set(merge.at, ids);
        const cell = (id) => h("td", { class: "mono" }, face(this.cut.tokens[id]));
        return h("tr", {}, h("td", {}, h("button", { type: "button", onclick: () => { this.end(); this.to(number + 1); } }, String(number + 1))),
          h("td", { class: "number" }, String(this.cut.scores ? -merge.rank : merge.rank)), cell(left), cell(right), cell(merge.token),
          h("td", { class: "number" }, String(merge.token)));
      }))), this.merges.length > ROWS ? h("p", { class: "quiet" }, `The first ${ROWS} of ${this.merges.length} merges are listed.`) : "");
  }

  // A piece as a tree: leaves below, each merge above its two parts; merges to come are faint.
  drawTree() {
    const [piece] = this.pieces;
    if (this.pieces.length > 1 || !this.merges.length || piece.start.length > TREE_LEAVES) return this.tree.replaceChildren();
    const [wide, tall] = [44, 34];
    const nodes = piece.start.map((id, position) => ({ id, x: position * wide + wide / 2, level: 0, step: 0 }));
    const at = [...nodes];
    const edges = [];
    for (const [number, merge] of this.merges.entries()) {
      const [left, right] = [at[merge.left], at[merge.right]];
      const node = { id: merge.token, x: (left.x + right.x) / 2, level: 1 + Math.max(left.level, right.level), step: number + 1 };
      edges.push([node, left], [node, right]);
      nodes.push(node);
      at[merge.left] = node;
    }
    const height = (Math.max(...nodes.map((node) => node.level)) + 1) * tall;
    const y = (node) => height - node.level * tall - tall / 2;
    const faint = (node) => (node.step > this.step ? "faint" : node.step === this.step && this.step ? "new" : "");
    const width = piece.start.length * wide;
    return this.tree.replaceChildren(svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "tree",
      "aria-label": `Tree of ${this.merges.length} merges` },
    edges.map(([node, part]) => svg("line", { x1: node.x, y1: y(node), x2: part.x, y2: y(part), class: faint(node) })),
    nodes.map((node) => {
      const text = face(this.cut.tokens[node.id]);
      const box = Math.max(18, 8 * [...text].length + 8);
      return svg("g", { class: faint(node) }, svg("rect", { x: node.x - box / 2, y: y(node) - 10, width: box, height: 20, rx: 4 }),
        svg("text", { x: node.x, y: y(node) + 4, "text-anchor": "middle" }, text));
    })));
  }

  play() {
    if (this.timer !== null) return this.end();
    if (this.step >= this.merges.length) this.to(0);
    this.player.setAttribute("aria-pressed", "true");
    this.player.textContent = "pause";
    this.timer = setInterval(() => {
      this.to(this.step + 1);
      if (this.step >= this.merges.length) this.end();
    }, WAIT);
    return undefined;
  }

  end() {
    clearInterval(this.timer);
    this.timer = null;
    this.player.setAttribute("aria-pressed", "false");
    this.player.textContent = "play";
  }
}
