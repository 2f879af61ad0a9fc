// The threads of a block on a grid, 32 in a row: a row is a warp. For a line of the source: which
// threads executed it, and what each lane touched the first time.
import { h, svg } from "./look/dom.js";

const LANES = 32;
const STEP = 19;

// onBlock(number): another block is to be watched.
export function threadsPanel(onBlock) {
  return new Threads(onBlock);
}

class Threads {
  constructor(onBlock) {
    this.onBlock = onBlock;
    this.title = h("h2", {}, "Threads");
    this.note = h("p", { class: "quiet", id: "threads-note" });
    this.block = h("span", { class: "row" });
    this.places = h("div", { class: "row", role: "group", "aria-label": "Accesses of the line" });
    this.cells = h("div", { class: "warps scroll", role: "group", "aria-label": "Warps, 32 threads each" });
    this.detail = h("div", { class: "lane-detail" });
    this.element = h("div", {}, h("div", { class: "row" }, this.title, this.block), this.note, this.places, this.cells, this.detail);
  }

  // kernel: one of the result's, with its block. file: the name of the source shown.
  showBlock(kernel, file) {
    Object.assign(this, { kernel, file, fault: null, line: null, place: null, warp: 0 });
    const block = kernel.block;
    this.size = block.dimensions;
    const blocks = block.grid[0] * block.grid[1] * block.grid[2];
    const input = h("input", { type: "number", min: 0, max: blocks - 1, value: block.number, class: "short", id: "kernel-block",
      onchange: () => input.reportValidity() && onBlockNumber(input, this.onBlock) });
    this.block.replaceChildren(h("label", {}, "block", input), h("span", { class: "quiet" },
      `of ${blocks.toLocaleString("en")}, ${product(this.size)} threads (${this.size.filter((n, i) => !i || n > 1).join(" x ")})`));
    this.drawCells();
  }

  // The two threads of a fault, A and B.
  showFault(fault) {
    Object.assign(this, { fault, kernel: null, line: null, place: null, size: fault.dimensions });
    this.block.replaceChildren(h("span", { class: "quiet" }, `block ${fault.block}, ${product(this.size)} threads`));
    this.places.replaceChildren();
    this.detail.replaceChildren();
    this.drawCells();
    const { other } = fault;
    this.mark(fault.thread, "A");
    let text = `A: thread ${this.threadName(fault.thread)} at line ${fault.line}`;
    if (other) {
      text += `; B: thread ${this.threadName(other.thread)} at line ${other.line}`;
      if (other.block === fault.block) this.mark(other.thread, "B");
      else text += ` of block ${other.block}`;
    }
    this.note.textContent = `${text}.`;
  }

  // figures: a sentence with the totals of the line.
  showLine(line, figures) {
    if (!this.kernel) return;
    const block = this.kernel.block;
    const accesses = block.accesses.filter((each) => each.file === this.file && each.line === line);
    const places = [...new Set(accesses.map((each) => `${each.space} ${each.kind} ${each.place}`))];
    const sorted = places.sort((a, b) => Number(a.split(" ")[2]) - Number(b.split(" ")[2]));
    if (line !== this.line || !sorted.includes(this.place)) {
      const costly = accesses.find((each) => each.actual >= 2 * each.ideal);
      this.place = costly ? `${costly.space} ${costly.kind} ${costly.place}` : sorted[0] ?? null;
      this.warp = this.costliestWarp(accesses);
    }
    Object.assign(this, { line, accesses, sorted, figures });
    this.drawPlaces();
    this.paint();
  }

  // Of the chosen access, the warp for which most was moved.
  costliestWarp(accesses) {
    const ofPlace = accesses.filter((each) => `${each.space} ${each.kind} ${each.place}` === this.place);
    return ofPlace.reduce((most, each) => (each.actual > most.actual ? each : most), ofPlace[0] ?? { warp: 0 }).warp;
  }

  drawPlaces() {
    const all = this.sorted.map((place) => this.accesses.filter((each) => `${each.space} ${each.kind} ${each.place}` === place));
    const names = all.map(([each]) => `${each.kind} ${arrayOf(each)}`);
    this.places.replaceChildren(...all.map((_, position) => {
      const same = names.filter((name) => name === names[position]).length > 1;
      const number = same ? ` ${names.slice(0, position + 1).filter((name) => name === names[position]).length}` : "";
      return h("button", { type: "button", "aria-pressed": String(this.sorted[position] === this.place),
        onclick: () => { this.place = this.sorted[position]; this.drawPlaces(); this.paint(); } }, `${names[position]}${number}`);
    }));
  }

  drawCells() {
    const count = product(this.size);
    const rows = [];
    for (let first = 0; first < count; first += LANES) {
      const warp = first / LANES;
      const lanes = Math.min(LANES, count - first);
      rows.push(h("div", { class: "warp" },
        h("button", { type: "button", class: "warp-name", "aria-pressed": "false", onclick: () => this.chooseWarp(warp),
          onkeydown: (event) => this.stepWarp(event, warp) }, `warp ${warp}`),
        Array.from({ length: lanes }, (_, lane) => h("span", { class: "thread", "data-thread": first + lane,
          title: `thread ${this.threadName(first + lane)}`, onmouseenter: () => this.chooseWarp(warp, lane) }))));
    }
    this.cells.replaceChildren(...rows);
  }

  stepWarp(event, warp) {
    const next = warp + ({ ArrowDown: 1, ArrowUp: -1 }[event.key] ?? 0);
    const button = this.cells.querySelectorAll(".warp-name")[next];
    if (next === warp || !button) return;
    event.preventDefault();
    button.focus();
    this.chooseWarp(next);
  }

  chooseWarp(warp, lane = null) {
    if (this.fault) return;
    this.warp = warp;
    this.paint(lane);
  }

  mark(thread, letter) {
    const cell = this.cells.querySelector(`[data-thread="${thread}"]`);
    if (!cell) return;
    cell.classList.add("fault");
    cell.textContent += letter;
    cell.scrollIntoView({ block: "nearest" });
  }

  // Which threads executed the access, and one warp's lanes in detail.
  paint(lane = null) {
    const ofPlace = this.accesses?.filter((each) => `${each.space} ${each.kind} ${each.place}` === this.place) ?? [];
    const byWarp = new Map(ofPlace.map((each) => [each.warp, each]));
    if (!byWarp.has(this.warp) && lane === null && byWarp.size) this.warp = [...byWarp.keys()][0];
    let first = 0;
    for (const [number, row] of [...this.cells.children].entries()) {
      const access = byWarp.get(number);
      const now = new Set(access?.lanes ?? []);
      const ever = new Set(access?.ever ?? []);
      row.querySelector("button").setAttribute("aria-pressed", String(number === this.warp));
      for (const [position, cell] of [...row.querySelectorAll(".thread")].entries()) {
        cell.classList.toggle("ran", now.has(position));
        cell.classList.toggle("later", ever.has(position) && !now.has(position));
      }
      first += now.size;
    }
    const block = this.kernel.block;
    const cut = block.complete ? "" : " Too many accesses to keep all of them: some warps may be missing.";
    this.note.textContent = this.line === null ? "Choose a line of the source." : !ofPlace.length
      ? `${this.figures} No thread of block ${block.number} accessed memory here in the first launch.${cut}`
      : `${this.figures} First time, in this block: ${first} of ${product(this.size)} threads.${cut}`;
    this.drawDetail(byWarp.get(this.warp), lane);
  }

  drawDetail(access, lane) {
    if (!access) return this.detail.replaceChildren();
    const unit = access.space === "global" ? "sectors" : "wavefronts";
    const sentence = `Warp ${access.warp}, ${access.kind} of ${access.size} bytes a lane, lanes: ${access.lanes.length}, `
      + `${unit}: ${access.actual}, ideal ${access.ideal}. Executed ${access.times === 1 ? "once" : `${access.times.toLocaleString("en")} times`}.`;
    const at = lane === null ? -1 : access.lanes.indexOf(lane);
    return this.detail.replaceChildren(...[
      h("p", { class: access.actual >= 2 * access.ideal ? "bad" : null }, access.actual >= 2 * access.ideal ? "! " : "", sentence),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Lanes and memory" },
        access.space === "global" ? sectorPicture(access, at, sentence) : bankPicture(access, at, sentence)),
      at >= 0 ? h("p", { class: "mono" }, this.laneText(access, at)) : null,
      h("details", {}, h("summary", {}, "lane by lane"), h("div", { class: "scroll", tabindex: 0 }, this.laneTable(access))),
    ].filter(Boolean));
  }

  laneText(access, at) {
    const unit = access.space === "global" ? "sector" : "bank";
    const thread = this.threadName(access.warp * LANES + access.lanes[at]);
    return `thread ${thread}, lane ${access.lanes[at]}: ${arrayOf(access, at)}[${access.elements[at]}], ${unit} ${access.units[at]}`;
  }

  laneTable(access) {
    const global = access.space === "global";
    return h("table", {}, h("thead", {}, h("tr", {}, ["lane", "thread", global ? "element" : "word", global ? "sector" : "bank"]
      .map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, access.lanes.map((lane, at) => h("tr", {}, h("td", { class: "number" }, String(lane)),
      h("td", {}, this.threadName(access.warp * LANES + lane)),
      h("td", { class: "mono" }, `${arrayOf(access, at)}[${access.elements[at]}]`), h("td", { class: "number" }, String(access.units[at]))))));
  }

  threadName(number) {
    const [x, y] = this.size;
    return `(${number % x}, ${Math.floor(number / x) % y}, ${Math.floor(number / x / y)})`;
  }
}

function onBlockNumber(input, onBlock) {
  const number = Number(input.value);
  if (Number.isInteger(number) && number >= 0 && number <= Number(input.max)) onBlock(number);
}

const product = (size) => size[0] * size[1] * size[2];
const arrayOf = (access, at = 0) => (typeof access.array === "string" ? access.array : access.array[at]);

// Lanes above, the sectors that they touch below: how much of each sector was asked for is filled.
function sectorPicture(access, at, sentence) {
  const keys = [...new Set(access.lanes.map((_, i) => `${arrayOf(access, i)} ${String(access.units[i]).padStart(12, "0")}`))].sort();
  const places = new Map(keys.map((key, position) => [key, position]));
  const key = (i) => `${arrayOf(access, i)} ${String(access.units[i]).padStart(12, "0")}`;
  const used = keys.map((each) => new Set(access.lanes.map((_, i) => i).filter((i) => key(i) === each).map((i) => access.elements[i])).size);
  const far = access.actual >= 2 * access.ideal;
  const width = LANES * STEP / Math.max(keys.length, 8);
  const box = (position) => (LANES * STEP - keys.length * width) / 2 + position * width;
  return fan(access, at, sentence, (i) => box(places.get(key(i))) + width / 2, keys.map((each, position) => {
    const part = Math.min(1, used[position] * access.size / 32);
    const label = String(Number(each.split(" ").pop()));
    return [
      svg("rect", { x: box(position) + 1, y: 92, width: width - 2, height: 22, class: "unit" },
        svg("title", {}, `sector ${label}: ${Math.round(part * 32)} of 32 bytes asked for`)),
      svg("rect", { x: box(position) + 1, y: 92 + 22 * (1 - part), width: width - 2, height: 22 * part, class: far ? "wasted" : "used" }),
      width >= 7 * label.length + 2 ? svg("text", { x: box(position) + width / 2, y: 128, "text-anchor": "middle" }, label) : null,
    ];
  }).flat(), "sectors");
}

// Lanes above, the 32 banks below: a bank that has to serve n different words has n blocks.
function bankPicture(access, at, sentence) {
  const words = Array.from({ length: LANES }, () => new Set());
  access.lanes.forEach((_, i) => {
    for (let part = 0; part < Math.max(1, access.size / 4); part += 1)
      words[(access.units[i] + part) % LANES].add(`${arrayOf(access, i)} ${access.elements[i] + part}`);
  });
  return fan(access, at, sentence, (i) => access.units[i] * STEP + STEP / 2, words.flatMap((each, bank) => [
    svg("rect", { x: bank * STEP + 1, y: 92, width: STEP - 2, height: 22, class: "unit" },
      svg("title", {}, `bank ${bank}: ${each.size} different words`)),
    each.size ? svg("rect", { x: bank * STEP + 1, y: 92, width: STEP - 2, height: 22, class: each.size > 1 ? "wasted" : "used" }) : null,
    each.size ? svg("text", { x: bank * STEP + STEP / 2, y: 107, "text-anchor": "middle", class: "on" }, String(each.size)) : null,
    bank % 4 === 0 ? svg("text", { x: bank * STEP + STEP / 2, y: 128, "text-anchor": "middle" }, String(bank)) : null,
  ]), "banks, with how many different words each has to serve");
}

function fan(access, at, sentence, target, below, caption) {
  return svg("svg", { viewBox: `0 0 ${LANES * STEP} 148`, role: "img", "aria-label": `${sentence} Lanes above, ${caption} below.`, class: "fan" },
    access.lanes.map((lane, i) => svg("line", { x1: lane * STEP + STEP / 2, y1: 30, x2: target(i), y2: 92, class: i === at ? "lit-line" : "" })),
    Array.from({ length: LANES }, (_, lane) => svg("rect", { x: lane * STEP + 2, y: 14, width: STEP - 4, height: 16,
      class: access.lanes.includes(lane) ? (access.lanes[at] === lane ? "lane lit-lane" : "lane") : "idle" })),
    [0, 8, 16, 24, 31].map((lane) => svg("text", { x: lane * STEP + STEP / 2, y: 10, "text-anchor": "middle" }, `${lane}`)),
    below, svg("text", { x: 0, y: 145 }, `lanes above, ${caption} below`));
}
