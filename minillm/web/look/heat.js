// Heat maps: numbers below 0 blue, above 0 orange, 0 the colour of the panel; in light and dark.
//
//   decoded(map)                  a map of heat_maps.py -> the same with `cells` as numbers (null stays null)
//   heatPicture(map, label)       a small canvas: a picture without a cursor
//   heatMap(map, settings)        a canvas with a cursor, for the pointer and the arrow keys
//   labelled(frame, labels)       a map with a name beside each of its rows
//   legend(map, limit)            the scale of the colours, in numbers
//
// The eye tells the two colours apart with every kind of colour blindness. They are full at `limit`, which 1 in 200
// cells exceeds: a single large number would make all others pale. What is no number is hatched.
import { h, short } from "./dom.js";

const COLOURS = {
  light: { zero: [251, 251, 249], below: [17, 84, 160], above: [190, 84, 0], none: [120, 0, 120] },
  dark: { zero: [29, 32, 36], below: [112, 184, 255], above: [255, 160, 70], none: [255, 130, 255] },
};
const shown = new Set();

export function decoded(map) {
  if (!map) return null;
  const bytes = Uint8Array.from(atob(map.cells), (letter) => letter.charCodeAt(0));
  if (map.type === "float32") return { ...map, cells: new Float32Array(bytes.buffer) };
  const cells = Float32Array.from(new Int8Array(bytes.buffer), (n) => (n === -128 ? NaN : (n * map.scale) / 127));
  return { ...map, cells };
}

// Where the colours are full: what 199 of 200 cells do not exceed; the largest where that is 0.
export function limitOf(cells) {
  const sizes = Array.from(cells, Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
  if (sizes.length === 0) return 1;
  return sizes[Math.floor((sizes.length - 1) * 0.995)] || sizes.at(-1) || 1;
}

function theme() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

// How far a number's colour is from that of 0: the root makes small numbers visible.
function strength(value, limit) {
  return Math.sqrt(Math.min(1, Math.abs(value) / limit));
}

function mixed(colours, value, limit) {
  const share = strength(value, limit);
  const end = value < 0 ? colours.below : colours.above;
  return colours.zero.map((channel, at) => channel + share * (end[at] - channel));
}

function draw(canvas) {
  const { map, limit } = canvas.heat;
  const colours = COLOURS[theme()];
  const context = canvas.getContext("2d");
  const image = context.createImageData(map.columns, map.rows);
  map.cells.forEach((value, at) => {
    const isHatched = !Number.isFinite(value) && (at + Math.floor(at / map.columns)) % 2 === 0;
    const colour = Number.isFinite(value) ? mixed(colours, value, limit) : isHatched ? colours.none : colours.zero;
    image.data.set([...colour, 255], 4 * at);
  });
  context.putImageData(image, 0, 0);
}

// Draws all maps on the page anew; those that left it are forgotten.
function redraw() {
  for (const canvas of shown) {
    if (canvas.isConnected) draw(canvas);
    else shown.delete(canvas);
  }
}
new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

export function heatPicture(map, label, limit = limitOf(map.cells)) {
  const canvas = h("canvas", { class: "heat", role: "img", "aria-label": label, width: map.columns, height: map.rows });
  canvas.heat = { map, limit };
  draw(canvas);
  shown.add(canvas);
  return canvas;
}

// A map with a cursor. settings: label; limit; onCell(row, column) when the cursor moves, onCell(null) when it leaves;
// onPick(row, column) for a click or Enter. It has a method point(row, column, quietly), which maps that are shown
// side by side use to move together.
export function heatMap(map, { label, limit = limitOf(map.cells), onCell = () => {}, onPick = () => {} }) {
  const canvas = heatPicture(map, label, limit);
  const cursor = h("div", { class: "cursor", hidden: true });
  const frame = h("div", { class: "heat-frame", tabindex: 0, role: "application", "aria-label": label }, canvas, cursor);
  canvas.setAttribute("aria-hidden", "true");
  let at = null;

  function place(row, column) {
    at = row === null ? null : [row, column];
    cursor.hidden = at === null;
    if (at === null) return;
    cursor.style.left = `${(100 * column) / map.columns}%`;
    cursor.style.top = `${(100 * row) / map.rows}%`;
    cursor.style.width = `${100 / map.columns}%`;
    cursor.style.height = `${100 / map.rows}%`;
  }

  function go(row, column) {
    if (at !== null && at[0] === row && at[1] === column) return;
    place(row, column);
    onCell(row, column);
  }

  function under(event) {
    const box = canvas.getBoundingClientRect();
    const cell = (place, start, size, count) => Math.min(count - 1, Math.max(0, Math.floor(((place - start) / size) * count)));
    return [cell(event.clientY, box.top, box.height, map.rows), cell(event.clientX, box.left, box.width, map.columns)];
  }

  frame.addEventListener("pointermove", (event) => go(...under(event)));
  frame.addEventListener("click", (event) => {
    go(...under(event));
    onPick(...at);
  });
  frame.addEventListener("focus", () => at === null && go(0, 0));
  frame.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const [row, column] = at ?? [0, 0];
    if (step) go(within(row + step[0], map.rows), within(column + step[1], map.columns));
    else if (event.key === "Enter") onPick(row, column);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  frame.point = (row, column) => place(row, column);
  return frame;
}

function within(place, count) {
  return Math.min(count - 1, Math.max(0, place));
}

// labels: one for each row, or fewer where some have none. Rows too low for letters get none.
export function labelled(frame, labels) {
  const names = h("div", { class: "axis", "aria-hidden": "true" }, ...labels.map((label) => h("span", {}, label)));
  return h("div", { class: "labelled" }, names, frame);
}

// The colours from -limit to limit, and the largest magnitude of the map where it is larger.
export function legend(map, limit) {
  const whole = map.cells.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);
  const cells = Float32Array.from({ length: 65 }, (_, at) => ((at - 32) / 32) * limit);
  const bar = heatPicture({ rows: 1, columns: cells.length, cells }, "colours from below 0 to above 0", limit);
  const beyond = whole > limit ? ` (largest ${short(whole)})` : "";
  return h("div", { class: "legend" }, h("span", {}, short(-limit)), bar, h("span", {}, `${short(limit)}${beyond}`));
}

// "each cell is the number farthest from 0 of 4 x 8", or nothing where a cell is one number.
export function reductionOf(map) {
  const [rows, columns] = map.block;
  return rows * columns === 1 ? "" : `each cell is the number farthest from 0 of ${rows} × ${columns}`;
}
