// A head's attention: what each token reads, and where the gradient of it goes. p, dp and ds as maps of query tokens
// by key tokens; of the query that is pointed at, a line to each token that it reads.
import { h, svg, short, visible } from "./look/dom.js";
import { decoded, heatMap, labelled, legend, limitOf, reductionOf } from "./look/heat.js";

const MAPS = {
  p: ["p", "the share of its attention that a token (row) gives to another (column)"],
  dp: ["dloss / dp", "of the share: blue where reading more of it would lower the loss"],
  ds: ["dloss / ds", "of the score before softmax, from which q and k learn"],
};
const ROW = 22; // pixels of a token in the drawing
const LABELLED = 32; // tokens whose names have room beside a map
const CLOSER = 64;
const WHERE = { query: 112, line: 118, key: 212, share: 276, shares: 54, p: 336, slope: 428, slopes: 40, ds: 474, end: 545 };

export function attentionPanel(view) {
  const { pass } = view;
  const blocks = pass.attention;
  if (blocks === 0) return h("div", { class: "panel" }, h("p", {}, "This model has no attention."));
  const block = chooser("block", blocks);
  const head = chooser("head", pass.heads);
  const whole = h("button", { type: "button", hidden: true, onclick: () => load() }, "all tokens");
  const about = h("p", { class: "quiet" });
  const body = h("div");
  let query = pass.total.tokens - 1;
  let asked = 0;

  async function load(window) {
    const mine = (asked += 1);
    const body_ = { text: view.text, block: Number(block.value), head: Number(head.value) };
    const answer = await view.api.post("backward/attention", window ? { ...body_, window } : body_, view.signal);
    if (mine !== asked) return;
    whole.hidden = !window;
    draw(answer);
  }

  function draw(answer) {
    const found = Object.fromEntries(Object.entries(answer.maps).map(([name, map]) => [name, decoded(map)]));
    const drawing = h("div", { class: "bw-reads" });
    const readout = h("output", { class: "readout mono" });
    const size = found.p.block[0];
    const first = { row: found.p.from[0], column: found.p.from[1] };
    const frames = Object.keys(MAPS).map((name) => heatMap(found[name], {
      label: `${MAPS[name][0]}: arrow keys move the cursor`,
      onCell: (row, column) => point(row, column),
      onPick: (row, column) => size > 1 && load([...around(row * size), ...around(column * size)]),
    }));

    function around(at) {
      const from = Math.max(0, Math.min(pass.total.tokens - CLOSER, at - CLOSER / 2));
      return [from, Math.min(pass.total.tokens, from + CLOSER)];
    }

    function point(row, column) {
      query = first.row + row * size;
      for (const frame of frames) frame.point(row, column);
      const cell = row * found.p.columns + column;
      const key = first.column + column * size;
      readout.replaceChildren(
        h("span", {}, size > 1 ? `tokens ${query} to ${query + size - 1} read ${key} to ${key + size - 1}` : `${token(view, query)} reads ${token(view, key)}`),
        ...Object.keys(MAPS).map((name) => h("span", {}, `${MAPS[name][0]} ${short(found[name].cells[cell])}`)),
      );
      drawing.replaceChildren(reads(view, answer, found, row, size, first, (next) => point(next, Math.min(next, found.p.columns - 1))));
    }

    about.textContent = aboutOf(answer, Number(head.value), found.p, view);
    body.replaceChildren(
      h("div", { class: "bw-patterns" }, ...Object.keys(MAPS).map((name, at) => figure(view, name, found[name], frames[at])), readout),
      drawing,
    );
    const row = Math.min(found.p.rows - 1, Math.max(0, Math.floor((query - first.row) / size)));
    point(row, Math.min(row, found.p.columns - 1));
  }

  block.addEventListener("change", () => load());
  head.addEventListener("change", () => load());
  load();
  return h(
    "div", { class: "panel bw-attention" },
    h(
      "div", { class: "row bw-title" }, h("h2", {}, "Attention"),
      h("label", {}, "block", block), h("label", {}, "head", head), whole,
    ),
    about, body,
  );
}

function chooser(name, count) {
  return h("select", { name }, ...Array.from({ length: count }, (_, at) => h("option", { value: at }, at)));
}

function token(view, at) {
  return `“${visible(view.pass.tokens[at])}” (${at})`;
}

function aboutOf({ layer, heads, key_value_heads: groups, window }, head, map, view) {
  const shared = heads / groups;
  const group = Math.floor(head / shared);
  const parts = [`${layer}, head ${head} of ${heads}.`];
  if (shared > 1) parts.push(`It reads key/value head ${group}, with heads ${group * shared} to ${(group + 1) * shared - 1}: dk and dv are sums over them.`);
  if (window && window < view.pass.total.tokens) parts.push(`A token sees the last ${window} tokens.`);
  const reduced = reductionOf(map);
  if (reduced) parts.push(`${reduced}; a click or Enter goes closer.`);
  return parts.join(" ");
}

function figure(view, name, map, frame) {
  const hasLabels = map.block[0] === 1 && map.rows <= LABELLED;
  const names = view.pass.tokens.slice(map.from[0], map.from[0] + map.rows).map(visible);
  frame.style.aspectRatio = "1";
  return h(
    "figure", {},
    h("figcaption", {}, h("strong", {}, MAPS[name][0]), " ", MAPS[name][1]),
    hasLabels ? labelled(frame, names) : frame,
    legend(map, limitOf(map.cells)),
  );
}

// Queries to the left, keys to the right, and lines from the chosen query: as thick as p, coloured by ds.
function reads(view, answer, found, row, size, first, choose) {
  const { p, ds } = found;
  const limit = limitOf(ds.cells.slice(row * ds.columns, (row + 1) * ds.columns));
  const height = ROW * Math.max(p.rows, p.columns);
  const name = (at) => visible(view.pass.tokens[at]) || "<>";
  const text = (x, at, anchor, label, extra) => svg("text", { x, y: at * ROW + 15, "text-anchor": anchor, ...extra }, label);
  const drawing = svg("svg", { viewBox: `0 0 ${WHERE.end} ${height}`, width: WHERE.end, height, role: "img", "aria-label": readsInWords(view, found, row, size, first) });
  for (let at = 0; at < p.rows; at += 1) {
    const label = text(WHERE.query, at, "end", name(first.row + at * size), { class: at === row ? "chosen" : "query", "data-row": at });
    label.addEventListener("pointerenter", () => at !== row && choose(at));
    drawing.append(label);
  }
  for (let at = 0; at < p.columns; at += 1) {
    const cell = row * p.columns + at;
    const share = p.cells[cell];
    const slope = ds.cells[cell];
    const seen = share > 0;
    const key = first.column + at * size;
    if (seen) {
      drawing.append(svg("path", {
        d: curve(row * ROW + 10, at * ROW + 10),
        class: slope < 0 ? "below" : "above", "stroke-width": 0.5 + 7 * share, "stroke-opacity": 0.35 + 0.65 * Math.min(1, Math.abs(slope) / limit),
      }));
      drawing.append(
        bar(at, WHERE.share, WHERE.shares * share, "share"),
        text(WHERE.p, at, "start", share.toFixed(3), {}),
        bar(at, WHERE.slope, WHERE.slopes * Math.max(-1, Math.min(1, slope / limit)), slope < 0 ? "below" : "above"),
        text(WHERE.ds, at, "start", slope.toExponential(1), {}),
      );
    }
    drawing.append(text(WHERE.key, at, "start", name(key).slice(0, 8), { class: seen ? "key" : "unseen" }));
  }
  return h(
    "div", {},
    h("h3", {}, size > 1 ? `What the tokens from ${first.row + row * size} on read` : `What ${token(view, first.row + row)} reads`),
    h("p", { class: "quiet" }, "lines: as thick as p; blue where a larger score would lower the loss. Columns: p, dloss / ds."),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "tokens that are read" }, drawing),
    norms(view, answer.norms),
  );
}

// From a query to a key, at these heights.
function curve(from, to) {
  const middle = (WHERE.line + WHERE.key) / 2;
  return `M${WHERE.line} ${from} C${middle} ${from} ${middle} ${to} ${WHERE.key - 6} ${to}`;
}

// Of a width that is below 0 where it goes to the left.
function bar(at, x, width, kind) {
  return svg("rect", { x: Math.min(x, x + width), y: at * ROW + 4, width: Math.abs(width), height: ROW - 8, class: kind });
}

function readsInWords(view, { p }, row, size, first) {
  const shares = Array.from({ length: p.columns }, (_, at) => [at, p.cells[row * p.columns + at]]).sort((a, b) => b[1] - a[1]);
  return `most: ${shares.slice(0, 3).map(([at, share]) => `${token(view, first.column + at * size)} ${share.toFixed(3)}`).join(", ")}`;
}

// The lengths of each token's vectors, and of their gradients.
function norms(view, lengths) {
  const names = ["q", "k", "v", "dq", "dk", "dv"];
  const rows = lengths.q.map((_, at) => h(
    "tr", {}, h("th", { scope: "row" }, h("code", {}, visible(view.pass.tokens[at]) || "<>")), ...names.map((name) => h("td", { class: "number" }, short(lengths[name][at]))),
  ));
  return h(
    "details", { class: "bw-norms" }, h("summary", {}, "Lengths of q, k, v and of their gradients"),
    h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "lengths of the vectors" }, h(
      "table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "token"), ...names.map((name) => h("th", { scope: "col", class: "number" }, `|${name}|`)))),
      h("tbody", {}, ...rows),
    )),
  );
}
