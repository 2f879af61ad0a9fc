// An opened tensor: its map and its gradient's, where it comes from and goes to, its formula, its code, its check.
import { h, short, visible } from "./look/dom.js";
import { codeColumn, follow } from "./look/code.js";
import { decoded, heatMap, labelled, legend, limitOf, reductionOf } from "./look/heat.js";

const CLOSER = 64; // rows and columns of a window that a click opens
const LABELLED = 36; // rows that have room for their tokens
const TALLEST = 400; // pixels of a map

// view: as in backward.js. answer: of backward/tensor. open(name), close(): what to do for another one, or none.
export function tensorPanel(view, answer, { open, close, signal }) {
  const { row } = answer;
  const links = (title, names) => names.length > 0 && h(
    "span", { class: "row" }, h("span", { class: "quiet" }, title),
    ...names.map((name) => h("button", { type: "button", class: "link", onclick: () => open(name) }, name)),
  );
  return h(
    "div", { class: "panel bw-tensor" },
    h(
      "div", { class: "row bw-title" },
      h("h2", { tabindex: -1 }, row.tensor, h("small", {}, ` (${row.shape.join(", ")})`)),
      h("button", { type: "button", onclick: close }, "Close (Esc)"),
    ),
    numbers(row),
    h("div", { class: "bw-flow" }, links("from", answer.from), links("to", answer.to)),
    maps(view, answer, signal),
    check(view, row, signal),
    code(answer),
    ...answer.formulas.map(formula),
  );
}

function numbers(row) {
  const operations = (count) => (count ? count.toLocaleString("en") : "none");
  const shown = {
    mean: short(row.mean), std: short(row.std), "largest magnitude": short(row.max_abs),
    "norm of the gradient": row.gradient_norm === null ? "none" : short(row.gradient_norm),
    "bytes saved for backward": operations(row.saved_bytes), "operations forward": operations(row.forward_operations),
    "operations backward": operations(row.backward_operations),
  };
  return h("dl", { class: "bw-numbers" }, ...Object.entries(shown).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

// ------------------------------------------------------------------------------------------------------------- maps

function maps(view, answer, signal) {
  const place = h("div", { class: "bw-maps" });
  const whole = h("button", { type: "button", hidden: true, onclick: () => draw(answer) }, "the whole map");
  const readout = h("output", { class: "readout mono" });

  async function closer(map, row, column) {
    if (map.block[0] * map.block[1] === 1) return;
    const part = [row * map.block[0] + map.from[0], column * map.block[1] + map.from[1]];
    const window = part.flatMap((at, axis) => around(at, map.of[axis], Math.max(CLOSER, map.block[axis])));
    draw(await view.api.post("backward/window", { text: view.text, name: answer.row.tensor, window }, signal));
    place.querySelector(".heat-frame").focus();
  }

  function draw(answered) {
    const shown = [decoded(answered.values), decoded(answered.gradient)];
    const [values, gradient] = shown;
    const pair = shown.map((map, which) => map && heatMap(map, {
      label: `${answer.row.tensor}, ${which ? "gradient" : "forward"}: arrow keys move the cursor`,
      onCell: (row, column) => point(row, column),
      onPick: (row, column) => closer(map, row, column),
    }));
    function point(row, column) {
      for (const each of pair) each?.point(row, column);
      readout.replaceChildren(...cellText(view, answer.row, values, gradient, row, column));
    }
    whole.hidden = values.of[0] === shownOf(values, 0) && values.of[1] === shownOf(values, 1);
    place.replaceChildren(...pair.flatMap((frame, which) => frame ? [figure(view, answer.row, frame, shown[which], which)] : []));
    const reduced = reductionOf(values);
    readout.replaceChildren(`Point at a cell${reduced ? `: ${reduced}; a click or Enter goes closer` : ""}.`);
  }

  draw(answer);
  return h("div", {}, place, h("div", { class: "row" }, whole, readout));
}

// How many rows (axis 0) or columns (1) of the tensor a map covers.
function shownOf(map, axis) {
  return Math.min(map.of[axis] - map.from[axis], (axis ? map.columns : map.rows) * map.block[axis]);
}

function around(at, size, width) {
  const first = Math.max(0, Math.min(size - width, at - Math.floor(width / 2)));
  return [first, Math.min(size, first + width)];
}

function figure(view, row, frame, map, which) {
  const bad = map.cells.filter((value) => !Number.isFinite(value)).length;
  const ofTokens = isOfTokens(view, row, map) && map.block[0] === 1 && map.rows <= LABELLED;
  const names = view.pass.tokens.slice(map.from[0], map.from[0] + map.rows).map(visible);
  frame.style.height = `${Math.min(TALLEST, Math.max(24, 11 * map.rows))}px`;
  if (hasHeads(row.shape, view.pass.total.tokens) && map.columns * map.block[1] >= map.of[1]) {
    const lines = h("div", { class: "heads" });
    lines.style.backgroundSize = `${100 / row.shape[1]}% 100%`;
    frame.append(lines);
  }
  return h(
    "figure", {},
    h("figcaption", {}, which ? "↑ gradient: dloss / dtensor" : "↓ forward", bad > 0 && h("strong", { class: "bad" }, ` ${bad} cells are no number`)),
    ofTokens ? labelled(frame, names) : frame,
    legend(map, limitOf(map.cells)),
  );
}

// What the cursor is at: index, token, value and gradient.
function cellText(view, row, values, gradient, r, c) {
  const at = [r * values.block[0] + values.from[0], c * values.block[1] + values.from[1]];
  const isOne = values.block[0] * values.block[1] === 1;
  const ends = at.map((place, axis) => Math.min(place + values.block[axis], values.of[axis]) - 1);
  const T = view.pass.total.tokens;
  const where = isOne ? `[${indexOf(row.shape, T, ...at).join(", ")}]` : `rows ${at[0]}–${ends[0]}, columns ${at[1]}–${ends[1]} of the map`;
  const cell = r * values.columns + c;
  const parts = [h("span", {}, where)];
  if (isOfTokens(view, row, values)) {
    const last = ends[0] > at[0] ? ` to ${ends[0]}` : "";
    parts.push(h("span", {}, `token ${at[0]}${last} “${visible(view.pass.tokens[at[0]])}”`));
  }
  parts.push(h("span", {}, `value ${full(values.cells[cell])}`));
  if (gradient) parts.push(h("span", {}, `gradient ${full(gradient.cells[cell])}`));
  return parts;
}

function isOfTokens(view, row, map) {
  return row.kind === "activation" && map.of[0] === view.pass.total.tokens && row.shape.length > 0;
}

// Whether a tensor is (1, H, T, D), whose heads the map has side by side.
function hasHeads(shape, T) {
  return shape.length === 4 && shape[0] === 1 && shape[2] === T;
}

// Nine digits are what a float32 has at most.
function full(value) {
  return Number.isFinite(value) ? String(Number(value.toPrecision(9))) : String(value);
}

// The index in the tensor of a place in its plane (heat_maps.plane).
function indexOf(shape, T, row, column) {
  if (hasHeads(shape, T)) {
    return [0, Math.floor(column / shape[3]), row, column % shape[3]];
  }
  const index = shape.length ? [column] : [];
  for (const size of shape.slice(0, -1).reverse()) {
    index.unshift(row % size);
    row = Math.floor(row / size);
  }
  return index;
}

// -------------------------------------------------------------------------------------------------- formula and code

function formula({ title, module, lines }) {
  return h(
    "details", { class: "bw-formula", open: true },
    h("summary", {}, title, " ", h("small", { class: "quiet mono" }, module)),
    h("pre", { class: "scroll", tabindex: 0, "aria-label": `derivation of ${module}` }, ...lines.map((line) =>
      line.marked ? h("mark", {}, line.text, "\n") : `${line.text}\n`)),
  );
}

function code({ forward, backward }) {
  const root = h("div", { class: "bw-code" }, passages("Forward", forward, "f", "b"), passages("Gradient", backward, "b", "f"));
  follow(root);
  // Once it is on the page: each column begins near its first marked line, or near what marked lines are tied to.
  const tied = new Set([...root.querySelectorAll(".statement:has(.marked)")].flatMap((each) => each.dataset.lights?.split(" ") ?? []));
  requestAnimationFrame(() => {
    for (const column of root.querySelectorAll(".code")) {
      const first = column.querySelector(".marked") ?? [...column.querySelectorAll(".statement")].find((each) => tied.has(each.dataset.id));
      if (first) column.scrollTop += first.getBoundingClientRect().top - column.getBoundingClientRect().top - 60;
    }
  });
  return root;
}

// One column: functions with the lines marked that compute the tensor, or its gradient. A statement lights those that
// Read ties it to; marked lines that have no tie light the marked lines of the other column.
function passages(title, found, own, other) {
  const parts = found.map((passage) => {
    const { title: why, place, first, lines, marked, statements } = passage;
    const rows = lines.map((text, line) => {
      const number = first + line;
      const tied = statements.find((statement) => statement.first <= number && number <= statement.last);
      const isMarked = marked.includes(number);
      const { id, lights } = tied ?? (isMarked ? { id: own, lights: [other] } : {});
      return { number, text, marked: isMarked, id, lights };
    });
    const column = codeColumn(rows, { label: `${why} ${place}` });
    if (!rows.some((row) => row.id)) column.setAttribute("role", "group");
    return h(
      "div", { class: passage.partner ? "passage partner" : "passage", "data-place": place },
      h("p", { class: "quiet" }, `${why} `, h("code", {}, place)), column,
    );
  });
  return h("section", { "aria-label": title }, h("h3", {}, title), ...(parts.length ? parts : [h("p", { class: "quiet" }, "none: it is frozen")]));
}

// ------------------------------------------------------------------------------------------------------------ check

function check(view, row, signal) {
  const button = h("button", { type: "button", onclick: () => (running ? running.abort() : start()) }, "check");
  const bar = h("progress", { max: 1, value: 0, hidden: true, "aria-label": "the check" });
  const said = h("p", { class: "verdict", role: "status" });
  const body = h("tbody");
  const table = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "checked elements", hidden: true }, h(
    "table", {},
    h("thead", {}, h("tr", {}, ...["element", "by backward", "finite difference", "relative error", "verdict"].map((name) => h("th", { scope: "col" }, name)))),
    body,
  ));
  let running = null;

  async function start() {
    const mine = (running = new AbortController());
    signal.addEventListener("abort", () => mine.abort());
    button.textContent = "stop the check";
    body.replaceChildren();
    said.className = "verdict quiet";
    said.textContent = "a pass in float64";
    bar.hidden = false;
    bar.removeAttribute("value");
    let count = 0;
    let done = 0;
    try {
      await view.api.stream("backward/check", { text: view.text, name: row.tensor }, (event) => {
        if (event.of) {
          count = event.of;
          table.hidden = false;
        } else if (event.element) {
          done += 1;
          body.append(element(event.element));
        } else if (event.verdict) {
          said.className = `verdict ${event.verdict === "passed" ? "good" : "bad"}`;
          said.textContent = event.text;
          return;
        }
        if (count) bar.value = done / count;
        if (count) said.textContent = `${done} of ${count} elements, each by its own finite differences`;
      }, mine.signal);
    } catch (error) {
      said.textContent = error.name === "AbortError" ? "stopped" : "";
      view.say(error);
    }
    running = null;
    bar.hidden = true;
    button.textContent = "check";
  }

  return h(
    "section", { class: "bw-check", "aria-labelledby": "bw-check" },
    h("h3", { id: "bw-check" }, "The gradient against finite differences of the loss, in float64"),
    h("div", { class: "row" }, button, bar), said, table,
  );
}

function element({ index, analytic, numeric, error, verdict }) {
  const number = (value) => (value === null ? "not a number" : String(Number(value.toPrecision(10))));
  return h(
    "tr", {}, h("td", { class: "mono" }, `(${index.join(", ")})`), h("td", { class: "number mono" }, number(analytic)),
    h("td", { class: "number mono" }, number(numeric)), h("td", { class: "number mono" }, error === null ? "" : error.toExponential(1)),
    h("td", { class: verdict === "passed" ? "good" : "bad" }, verdict),
  );
}
