// Curves over steps, drawn as SVG: axes with round numbers, a cursor for pointer and keyboard with a read-out, and a
// table of the values beneath. lineChart for curves of several runs; strips.js draws many layers of one run.
import { h, svg, short } from "./dom.js";

const MARGIN = { top: 12, right: 14, bottom: 36, left: 58 };
const SECOND = 58; // the width of an axis at the right
const DASHES = ["", "8 4", "2 3", "10 3 2 3", "14 5", "5 2 1 2"];
const COLOURS = 6;
const MOST_POINTS = 800; // of a curve as it is drawn

const MOVES = {
  ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1, ArrowDown: (at) => at - 1, ArrowUp: (at) => at + 1,
  PageDown: (at) => at - 10, PageUp: (at) => at + 10, Home: () => 0, End: (at, last) => last,
};

// How the n-th run is drawn: a colour and a dash pattern, so that neither is needed alone.
export function styleOf(number) {
  const dash = DASHES[(number + Math.floor(number / COLOURS)) % DASHES.length];
  return { colour: `var(--plot-${number % COLOURS})`, dash };
}

// Round numbers from low to high, about as many as count: ticks(0, 1, 5) -> [0, 0.2, 0.4, 0.6, 0.8, 1].
export function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  const found = [];
  for (let n = first; n * step <= high + step * 1e-9; n += 1) found.push(Number((n * step).toPrecision(12)));
  return found;
}

// Round numbers for a logarithmic axis: 1, 2, 5 of each power of ten, or as for a plain axis where they are too few.
export function logTicks(low, high, count) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const each of [1, 2, 5]) {
      const tick = Number((each * 10 ** power).toPrecision(6));
      if (tick >= low * 0.9999 && tick <= high * 1.0001) found.push(tick);
    }
  }
  if (found.length < 3) return ticks(low, high, count).filter((tick) => tick > 0);
  const powers = found.filter((tick) => Number.isInteger(Math.round(Math.log10(tick) * 1e6) / 1e6));
  return found.length > 2 * count && powers.length > 1 ? powers : found;
}

// A focusable area with a cursor: the pointer and the arrow keys choose a position; onMove(index) is called, with null
// for none.
export function cursorArea(label, onMove) {
  let count = 0, index = null;
  const area = h("div", {
    class: "plot-area", tabindex: 0, role: "slider", "aria-label": label,
    "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0,
    onkeydown: (event) => {
      const last = count - 1, at = index ?? last;
      if (event.key === "Escape") move(null);
      else if (event.key in MOVES && count) move(Math.min(last, Math.max(0, MOVES[event.key](at, last))));
      else return;
      event.preventDefault();
    },
    onblur: () => move(null),
    onpointerleave: () => move(null),
  });
  function move(to) {
    index = to;
    onMove(index);
  }
  return {
    area,
    move,
    get index() { return index === null || index >= count ? null : index; },
    // positions: the values that the cursor can have; text: what is read out at the present one.
    says(positions, text) {
      count = positions.length;
      const now = positions[Math.min(index ?? count - 1, count - 1)] ?? 0;
      area.setAttribute("aria-valuemin", positions[0] ?? 0);
      area.setAttribute("aria-valuemax", positions[count - 1] ?? 0);
      area.setAttribute("aria-valuenow", now);
      area.setAttribute("aria-valuetext", text || "no values yet");
    },
  };
}

// A table in a <details>, which is filled while it is open. rows() -> [[heading, ...], [value, ...], ...].
export function valueTable(label, rows) {
  const table = h("table", {});
  const details = h("details", { class: "plot-table", ontoggle: () => fill() },
    h("summary", {}, "values"),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `values: ${label}` }, table));
  function fill() {
    if (!details.open) return;
    const [headings, ...values] = rows();
    table.replaceChildren(
      h("thead", {}, h("tr", {}, headings.map((heading) => h("th", { scope: "col", class: "number" }, heading)))),
      h("tbody", {}, values.map((row) => h("tr", {}, row.map((value) => h("td", { class: "number" }, short(value)))))),
    );
  }
  return { details, fill };
}

// The width that an element has, now and whenever it changes.
export function onWidth(element, call) {
  let width = 0;
  const observer = new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) call((width = now));
  });
  observer.observe(element);
}

// A chart of curves: { element, draw(data) }.
//   options: title, x and y (labels of the axes), height, second: { label, of, back } for an axis at the right with
//     other units, logarithmic: whether it begins so.
//   data: series: [{ label, points: [[x, y], ...], colour, dash, width, marks, faint, more }], where more(y) is what is
//     read out beside a value; band: { upper, lower, text }; notes: [{ x, row, text }].
export function lineChart(options) {
  let data = { series: [], band: null, notes: [] }, width = 0, logarithmic = options.logarithmic ?? false;
  const readout = h("p", { class: "plot-readout mono" });
  const legend = h("ul", { class: "plot-legend" });
  const cursor = cursorArea(`${options.title}: a cursor along the steps`, () => paint());
  const table = valueTable(options.title, () => rowsOf(shownSeries(data), options.x));
  const toggle = h("button", {
    type: "button", "aria-pressed": String(logarithmic), title: "a logarithmic axis",
    onclick: () => {
      logarithmic = !logarithmic;
      toggle.setAttribute("aria-pressed", String(logarithmic));
      paint();
    },
  }, "log");
  const element = h("figure", { class: "plot" },
    h("figcaption", {}, h("h3", {}, options.title), toggle), cursor.area, readout, legend, table.details);
  let frame = null;

  cursor.area.addEventListener("pointermove", (event) => {
    if (!frame) return;
    const x = frame.x.back((event.clientX - cursor.area.getBoundingClientRect().left - frame.left) / frame.width);
    const distances = frame.positions.map((each) => Math.abs(each - x));
    if (distances.length) cursor.move(distances.indexOf(Math.min(...distances)));
  });
  onWidth(cursor.area, (now) => {
    width = now;
    paint();
  });

  function draw(next) {
    data = next;
    legend.replaceChildren(...data.series.filter((each) => each.points.length).map(legendEntry));
    paint();
    table.fill();
  }

  function paint() {
    const series = shownSeries(data);
    const positions = positionsOf(series);
    const at = cursor.index === null ? positions.at(-1) : positions[cursor.index];
    const readings = series.map((each) => reading(each, at)).filter(Boolean);
    const text = at === undefined ? "" : `${options.x} ${at}: ${readings.join(" · ")}`;
    readout.textContent = text || "no values yet";
    cursor.says(positions, text);
    if (!width) return;
    frame = frameOf(data.series, positions, width, options, logarithmic);
    const marked = cursor.index === null ? null : at;
    const empty = { width, height: options.height, "aria-hidden": "true" };
    cursor.area.replaceChildren(frame ? drawing(frame, data, options, marked) : svg("svg", empty));
  }
  return { element, draw };
}

// --------------------------------------------------------------------------------------------------- what is read

function shownSeries(data) {
  return data.series.filter((each) => each.points.length && !each.faint);
}

function positionsOf(series) {
  return [...new Set(series.flatMap((each) => each.points.map(([x]) => x)))].sort((a, b) => a - b);
}

// The last value of a curve up to a step.
function valueAt(series, x) {
  let found;
  for (const point of series.points) {
    if (point[0] > x) break;
    found = point[1];
  }
  return found;
}

function reading(series, x) {
  const value = valueAt(series, x);
  if (value === undefined) return "";
  return `${series.label} ${short(value)}${series.more ? ` (${series.more(value)})` : ""}`;
}

function rowsOf(series, label) {
  const maps = series.map((each) => new Map(each.points));
  const rows = positionsOf(series).map((x) => [x, ...maps.map((map) => map.get(x))]);
  return [[label, ...series.map((each) => each.label)], ...rows];
}

function legendEntry(series) {
  const line = svg("svg", { width: 30, height: 10, "aria-hidden": "true" },
    svg("path", { d: "M0 5H30", class: series.faint ? "plot-line faint" : "plot-line", style: strokeOf(series) }),
    series.marks ? svg("circle", { cx: 15, cy: 5, r: 3, style: `fill:${series.colour}` }) : null);
  return h("li", {}, line, series.label);
}

function strokeOf(series) {
  return `stroke:${series.colour};stroke-width:${series.width ?? 2};stroke-dasharray:${series.dash || "none"}`;
}

// ------------------------------------------------------------------------------------------------- what is drawn

function axisOf(low, high, logarithmic) {
  const [a, b] = logarithmic ? [Math.log(low), Math.log(high)] : [low, high];
  const span = b - a || 1;
  return {
    low, high, logarithmic,
    at: (value) => ((logarithmic ? Math.log(value) : value) - a) / span,
    back: (share) => (logarithmic ? Math.exp(a + share * span) : a + share * span),
  };
}

function frameOf(series, positions, width, options, logarithmic) {
  const usable = series.flatMap((each) => drawable(each.points, logarithmic));
  if (!usable.length) return null;
  let [low, high] = [Infinity, -Infinity], last = -Infinity, first = Infinity;
  for (const [x, y] of usable) {
    [low, high] = [Math.min(low, y), Math.max(high, y)];
    [first, last] = [Math.min(first, x), Math.max(last, x)];
  }
  const edge = logarithmic ? 0 : (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  if (logarithmic) [low, high] = low === high ? [low / 2, high * 2] : [low * 0.97, high * 1.03];
  const right = options.second ? SECOND : MARGIN.right;
  return {
    left: MARGIN.left, top: MARGIN.top, positions,
    width: width - MARGIN.left - right, height: options.height - MARGIN.top - MARGIN.bottom,
    total: [width, options.height],
    x: axisOf(first, last > first ? last : first + 1, false),
    y: axisOf(low - edge, high + edge, logarithmic),
  };
}

function drawing(frame, data, options, marked) {
  const [width, height] = frame.total;
  const x = (value) => frame.left + frame.x.at(value) * frame.width;
  const y = (value) => frame.top + (1 - frame.y.at(value)) * frame.height;
  return svg("svg", { width, height, "aria-hidden": "true" }, [
    axisX(frame, x, options), axisY(frame, y, options), options.second && secondAxis(frame, y, options.second),
    data.band && band(data.band, x, y, frame),
    data.series.map((each) => curve(each, x, y, frame)),
    data.notes.map((note) => noteAt(note, x(note.x), frame)),
    data.band && bandText(data.band, x, y),
    marked !== null && svg("path", { class: "plot-cursor", d: vertical(x(marked), frame) }),
  ].flat(Infinity));
}

function axisX(frame, x, options) {
  const bottom = frame.top + frame.height;
  const all = ticks(frame.x.low, frame.x.high, Math.max(3, frame.width / 80)).filter(Number.isInteger);
  return [
    svg("path", { class: "plot-axis", d: `M${frame.left} ${bottom}H${frame.left + frame.width}` }),
    all.map((each) =>
      svg("text", { x: x(each), y: bottom + 15, class: "plot-tick middle" }, each.toLocaleString("en"))),
    svg("text", { x: frame.left + frame.width / 2, y: bottom + 31, class: "plot-label middle" }, options.x),
  ];
}

function axisY(frame, y, options) {
  const choose = frame.y.logarithmic ? logTicks : ticks;
  const middle = frame.top + frame.height / 2;
  return [
    choose(frame.y.low, frame.y.high, Math.max(2, frame.height / 45)).map((tick) => [
      svg("path", { class: "plot-grid", d: `M${frame.left} ${y(tick)}H${frame.left + frame.width}` }),
      svg("text", { x: frame.left - 6, y: y(tick) + 4, class: "plot-tick end" }, short(tick)),
    ]),
    svg("text", { x: 12, y: middle, ...upright(12, middle) }, options.y),
  ];
}

function secondAxis(frame, y, second) {
  const [low, high] = [second.of(frame.y.low), second.of(frame.y.high)];
  const right = frame.left + frame.width, middle = frame.top + frame.height / 2, far = frame.total[0] - 6;
  let above = Infinity;
  const kept = logTicks(low, high, frame.height / 40).filter((tick) => {
    const free = above - y(second.back(tick)) > 14;
    if (free) above = y(second.back(tick));
    return free;
  });
  return [
    kept.map((tick) => {
      const place = { x: right + 6, y: y(second.back(tick)) + 4, class: "plot-tick" };
      return svg("text", place, tick.toLocaleString("en"));
    }),
    svg("text", { x: far, y: middle, ...upright(far, middle) }, second.label),
  ];
}

function vertical(x, frame) {
  return `M${x} ${frame.top}V${frame.top + frame.height}`;
}

// A label along an axis.
function upright(x, y) {
  return { class: "plot-label middle", transform: `rotate(-90 ${x} ${y})` };
}

// The points that an axis can show.
function drawable(points, logarithmic) {
  return points.filter(([, value]) => Number.isFinite(value) && (!logarithmic || value > 0));
}

// A curve with at most MOST_POINTS points: of neighbours one stays.
function curve(series, x, y, frame) {
  const stride = Math.ceil(series.points.length / MOST_POINTS);
  const last = series.points.length - 1;
  const kept = series.points.filter((_, index) => index % stride === 0 || index === last);
  const points = drawable(kept, frame.y.logarithmic);
  const path = points.map(([px, py], index) => `${index ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
  const marks = series.marks || points.length === 1, radius = points.length > 60 ? 1.5 : 2.8;
  return [
    svg("path", { d: path, class: series.faint ? "plot-line faint" : "plot-line", style: strokeOf(series) }),
    marks && points.map(([px, py]) =>
      svg("circle", { cx: x(px), cy: y(py), r: radius, style: `fill:${series.colour}` })),
  ];
}

function band({ upper, lower, text }, x, y, frame) {
  const [above, below] = [upper, lower].map((points) => drawable(points, frame.y.logarithmic));
  const corners = [...above, ...below.reverse()].map(([px, py]) => `${x(px).toFixed(1)},${y(py).toFixed(1)}`);
  if (corners.length < 4) return null;
  return svg("polygon", { class: "plot-band", points: corners.join(" ") });
}

// How wide the band is at its end, where there is room to say it.
function bandText({ upper, lower, text }, x, y) {
  const [lastX, lastUpper] = upper.at(-1), ends = [y(lastUpper), y(lower.at(-1)[1])];
  if (!ends.every(Number.isFinite) || Math.abs(ends[0] - ends[1]) < 16) return null;
  return svg("text", { x: x(lastX) - 6, y: (ends[0] + ends[1]) / 2 + 4, class: "plot-note end" }, text);
}

function noteAt(note, x, frame) {
  const end = x > frame.left + frame.width / 2, y = frame.top + 10 + 13 * (note.row ?? 0);
  return [
    svg("path", { class: "plot-event", d: vertical(x, frame) }),
    svg("text", { x: x + (end ? -4 : 4), y, class: `plot-note ${end ? "end" : ""}` }, note.text),
  ];
}
