// The layers of one run over its steps: heatStrip, a row a layer and a column a step; smallMultiples, a little curve
// each.
import { h, svg, short } from "./dom.js";
import { cursorArea, onWidth, valueTable } from "./plots.js";

const ROW = 18; // pixels
const NAMES = 86; // pixels for the names of layers
const CELL = 7; // the narrowest cell

// data: rows (names of layers), columns (steps), values: for each column a number for each row.
export function heatStrip(options) {
  let data = { rows: [], columns: [], values: [] }, width = 0, shown = data;
  const readout = h("p", { class: "plot-readout mono" });
  const scale = h("p", { class: "plot-scale quiet" });
  const cursor = cursorArea(`${options.title}: a cursor along the steps`, () => paint());
  const table = valueTable(options.title, () => layerRows(data));
  const element = h("figure", { class: "plot" },
    h("figcaption", {}, h("h3", {}, options.title)), cursor.area, scale, readout, table.details);

  cursor.area.addEventListener("pointermove", (event) => {
    const cell = (width - NAMES) / shown.columns.length;
    const column = Math.floor((event.clientX - cursor.area.getBoundingClientRect().left - NAMES) / cell);
    if (shown.columns.length) cursor.move(Math.min(shown.columns.length - 1, Math.max(0, column)));
  });
  onWidth(cursor.area, (now) => {
    width = now;
    paint();
  });

  function paint() {
    shown = gathered(data, Math.max(8, Math.floor((width - NAMES) / CELL)));
    const last = shown.columns.length - 1, at = cursor.index ?? last;
    const readings = shown.rows.map((name, row) => `${name} ${short(shown.values[at][row])}`);
    const text = last < 0 ? "" : `step ${shown.columns[at]}: ${readings.join(" · ")}`;
    readout.textContent = text || "no values yet";
    cursor.says(shown.columns, text);
    if (!width) return;
    const [low, high] = extentOf(shown), ramp = h("span", { class: "plot-ramp", "aria-hidden": "true" });
    scale.replaceChildren(...(last < 0 ? [] : [short(low), ramp, `${short(high)} (logarithmic)`]));
    cursor.area.replaceChildren(stripCells(shown, low, high, width, cursor.index));
  }
  return {
    element,
    draw(next) {
      data = next;
      paint();
      table.fill();
    },
  };
}

// A little curve for each layer, with its first and its last value.
export function smallMultiples(options) {
  let data = { rows: [], columns: [], values: [] };
  const grid = h("ul", { class: "plot-multiples" });
  const table = valueTable(options.title, () => layerRows(data));
  const element = h("figure", { class: "plot" }, h("figcaption", {}, h("h3", {}, options.title)), grid, table.details);
  return {
    element,
    draw(next) {
      data = next;
      grid.replaceChildren(...data.rows.map((name, row) => layerCurve(name, data.values.map((each) => each[row]))));
      if (!data.rows.length) grid.replaceChildren(h("li", { class: "quiet" }, "no values yet"));
      table.fill();
    },
  };
}

function layerRows(data) {
  return [["step", ...data.rows], ...data.columns.map((step, index) => [step, ...data.values[index]])];
}

function extentOf(data) {
  const all = data.values.flat().filter((value) => value > 0);
  return [Math.min(...all), Math.max(...all)];
}

// At most `most` columns: each the mean of some neighbours, called after the last of them.
function gathered(data, most) {
  const stride = Math.ceil(data.columns.length / most);
  if (stride <= 1) return data;
  const columns = [], values = [];
  for (let start = 0; start < data.columns.length; start += stride) {
    const part = data.values.slice(start, start + stride);
    columns.push(data.columns[Math.min(start + stride, data.columns.length) - 1]);
    values.push(data.rows.map((_, row) => part.reduce((sum, each) => sum + each[row], 0) / part.length));
  }
  return { rows: data.rows, columns, values };
}

function stripCells(data, low, high, width, marked) {
  const cell = (width - NAMES) / Math.max(1, data.columns.length);
  const height = data.rows.length * ROW, span = Math.log(high / low) || 1;
  return svg("svg", { width, height: Math.max(ROW, height), "aria-hidden": "true" }, [
    data.rows.map((name, row) => svg("text", { x: NAMES - 6, y: row * ROW + 13, class: "plot-tick end" }, name)),
    data.values.flatMap((column, index) => column.map((value, row) => svg("rect", {
      class: "plot-cell", x: NAMES + index * cell, y: row * ROW, width: cell + 0.3, height: ROW - 1,
      "fill-opacity": (value > 0 ? 0.06 + 0.94 * Math.log(value / low) / span : 0).toFixed(3),
    }))),
    marked !== null && svg("rect", {
      class: "plot-marked", x: NAMES + marked * cell, y: 0.5, width: cell, height: height - 1,
    }),
  ].flat());
}

function layerCurve(name, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)], span = high - low || 1;
  const path = values.map((value, index) => {
    const x = 2 + (96 * index) / Math.max(1, values.length - 1), y = 26 - (22 * (value - low)) / span;
    return `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  return h("li", {}, h("span", {}, name),
    svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { class: "plot-line", d: path.join("") })),
    h("span", { class: "mono" }, `${short(values[0])} → ${short(values.at(-1))}`));
}
