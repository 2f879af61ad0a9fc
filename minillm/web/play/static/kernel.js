// The view Kernel: a kernel of minillm or of one's own, run in the simulator. The source with what
// each line asks of memory (kernel_source.js), the threads of a block (kernel_threads.js), faults.
import { h } from "./look/dom.js";
import { editor } from "./kernel_editor.js";
import { sourceTable, columnNotes } from "./kernel_source.js";
import { threadsPanel } from "./kernel_threads.js";

export async function show(root, api, say) {
  const info = await api.post("kernel/list");
  const view = new KernelView(root, api, say, info);
  root.append(h("link", { rel: "stylesheet", href: "kernel.css" }), ...view.parts());
  if (info.problem) say(info.problem);
  await view.choose(info.kernels.some((each) => each.name === "layer_norm") ? "layer_norm" : info.kernels[0].name);
  return () => view.stop();
}

class KernelView {
  constructor(root, api, say, info) {
    Object.assign(this, { root, api, say, info, own: false, aborter: null, result: null, request: null, section: 0 });
    this.editor = editor(info.examples, (example) => this.takeExample(example));
    this.threads = threadsPanel((block) => this.runAgain(block));
  }

  // ------------------------------------------------------------------ what is to be run

  parts() {
    this.kernels = h("select", { id: "kernel-name", onchange: () => this.choose(this.kernels.value) },
      this.info.kernels.map((each) => h("option", { value: each.name }, each.name)));
    this.summary = h("span", { class: "quiet" });
    this.sizes = h("span", { class: "row" });
    this.ours = h("div", { class: "row" }, h("label", {}, "kernel", this.kernels), this.sizes, this.summary);
    this.tabs = ["a kernel of minillm", "a source of your own"].map((title, own) =>
      h("button", { type: "button", "aria-pressed": String(!own), onclick: () => this.switchTo(Boolean(own)) }, title));
    this.mode = h("select", { id: "kernel-mode" }, h("option", { value: "profile" }, "count memory traffic"),
      h("option", { value: "check" }, "look for races and faults"));
    this.order = h("select", {}, this.info.orders.map((order) => h("option", { value: order }, order)));
    this.seed = h("input", { type: "number", min: 0, value: 0, class: "short" });
    const [least, usual, most] = this.info.seconds;
    this.seconds = h("input", { type: "number", min: least, max: most, value: usual, class: "short" });
    this.go = h("button", { type: "button", class: "primary", disabled: Boolean(this.info.problem), onclick: () => this.run() },
      "Run");
    this.halt = h("button", { type: "button", disabled: true, onclick: () => this.stop() }, "Stop");
    this.state = h("span", { role: "status", class: "quiet", id: "kernel-state" });
    this.outcome = h("div", { id: "kernel-outcome" });
    this.reading = h("div", { class: "kernel-reading" });
    return [
      h("h1", { class: "sr-only" }, "Kernel"),
      h("section", { class: "panel kernel-choice", "aria-label": "What is run" },
        h("div", { class: "row" }, ...this.tabs),
        this.ours, this.editor.element,
        h("div", { class: "row" },
          h("label", {}, "what to see", this.mode), h("label", {}, "threads take turns", this.order),
          h("label", {}, "seed", this.seed),
          h("label", {}, "stop it after", this.seconds, "s"), this.go, this.halt, this.state)),
      this.outcome, this.reading,
    ];
  }

  switchTo(own) {
    this.own = own;
    this.tabs.forEach((tab, position) => tab.setAttribute("aria-pressed", String(Boolean(position) === own)));
    this.ours.hidden = own;
    this.editor.element.hidden = !own;
    this.clear();
    if (!own) return this.choose(this.kernels.value);
    if (!this.editor.value().source) this.editor.open(0);
    return undefined;
  }

  async choose(name) {
    const kernel = this.info.kernels.find((each) => each.name === name);
    this.kernels.value = name;
    this.ours.hidden = false;
    this.editor.element.hidden = true;
    this.summary.textContent = kernel.summary;
    this.sizes.replaceChildren(...Object.entries(kernel.size).map(([key, number]) =>
      h("label", {}, key, h("input", { type: "number", min: 1, value: number, name: key, class: "short" }))));
    this.clear();
    const { file, source } = await this.api.post("kernel/source", { kernel: name });
    if (this.own || this.kernels.value !== name || this.result) return;
    this.plain = { name: file, source: source.split("\n"), lines: {} };
    this.showSource(this.plain, []);
  }

  takeExample(example) {
    this.mode.value = example.mode;
    this.clear();
  }

  clear() {
    this.stop();
    Object.assign(this, { result: null, plain: null, source: null, section: 0 });
    this.outcome.replaceChildren();
    this.reading.replaceChildren();
    this.editor.mark(null, "");
    this.say(this.info.problem);
  }

  // ------------------------------------------------------------------ the run

  asked() {
    const common = { mode: this.mode.value, order: this.order.value, seed: Number(this.seed.value), seconds: Number(this.seconds.value) };
    if (this.own) return { ...common, ...this.editor.value() };
    const size = Object.fromEntries([...this.sizes.querySelectorAll("input")].map((each) => [each.name, Number(each.value)]));
    return { ...common, kernel: this.kernels.value, size };
  }

  async run(watch = 0, kept = null) {
    this.stop();
    const request = { ...(kept ?? this.asked()), watch };
    const aborter = new AbortController();
    this.aborter = aborter;
    this.say("");
    this.editor.mark(null, "");
    if (!kept) this.outcome.replaceChildren();
    this.busy(true);
    let last = null;
    try {
      await this.api.stream("kernel/run", request, (event) => {
        if (event.event === "state") this.told(event);
        else last = event;
      }, aborter.signal);
    } catch (error) {
      if (this.aborter === aborter) this.say(error);
    }
    if (this.aborter !== aborter) return;
    this.aborter = null;
    this.busy(false);
    this.state.textContent = "";
    if (last) this.take(last, request);
  }

  runAgain(block) {
    if (this.request) this.run(block, { ...this.request, again: true });
  }

  stop() {
    this.aborter?.abort();
    if (this.aborter) this.state.textContent = "stopped";
    this.aborter = null;
    this.busy(false);
  }

  busy(is) {
    if (!this.go) return;
    this.halt.disabled = !is;
    this.go.disabled = is || Boolean(this.info.problem);
  }

  told(event) {
    const text = `${event.state} ${event.file} ${event.seconds.toFixed(0)} s`;
    if (this.state.textContent !== text) this.state.textContent = text;
  }

  // ------------------------------------------------------------------ what came of it

  take(event, request) {
    this.request = request;
    const printed = event.printed ? h("details", { open: true }, h("summary", {}, "printed by the kernel"),
      h("pre", { class: "scroll printed", tabindex: 0 }, event.printed)) : null;
    if (event.event !== "result") {
      this.say(event.text);
      this.result = null;
      this.outcome.replaceChildren(...(printed ? [printed] : []));
      if (this.own && event.line) this.editor.mark(event.line, event.text);
      const marks = event.line ? [{ line: event.line, text: event.text }] : [];
      this.showSource(this.own ? this.ownFile(request) : this.plain, marks);
      return;
    }
    const again = this.result !== null && request.again;
    const line = again ? this.source.selected : null;
    this.result = event;
    if (!again) this.section = this.hottestSection();
    this.outcome.replaceChildren(this.verdict(event), ...(printed ? [printed] : []));
    if (this.sections().length) this.showSection(this.section, line);
    else this.showChecked(request);
    const [fault] = event.faults;
    if (this.own && fault?.file === request.file) this.editor.mark(fault.line, fault.text);
  }

  verdict(event) {
    const rows = event.findings.length ? [] : event.rows;
    const faults = event.faults.map((fault, position) => h("li", {},
      h("button", { type: "button", onclick: () => this.showFault(position) }, `show ${position + 1}`), " ",
      h("span", { class: "mono" }, fault.text)));
    const others = event.faults.length ? [] : event.findings.map((text) => h("li", { class: "mono" }, text));
    const title = event.findings.length ? `faults found: ${event.findings.length}`
      : !event.well ? "results differ" : event.mode === "check" ? "check mode: nothing to report"
      : this.own ? (this.request.expect.length ? "ran, results as expected" : "ran") : "ran, agrees with NumPy in float64";
    return h("section", { class: "panel", "aria-label": "Outcome" },
      h("h2", { class: event.well ? "good" : "bad", id: "kernel-verdict" }, `${event.well ? "✓" : "✗"} ${title}`),
      faults.length || others.length ? h("ol", { class: "faults" }, ...faults, ...others) : null,
      h("div", { class: "both" }, event.totals ? totals(event.totals) : null,
        rows.length ? h("pre", { class: "scroll", tabindex: 0 }, rows.join("\n")) : null));
  }

  ownFile(request) {
    return { name: request.file, source: request.source.split("\n"), lines: {} };
  }

  showChecked(request) {
    if (this.result.faults.length) this.showFault(0);
    else this.showSource(this.own ? this.ownFile(request) : this.plain, []);
  }

  async showFault(position) {
    const fault = this.result.faults[position];
    const header = this.result.headers[fault.file];
    const file = header ? { name: fault.file, source: header, lines: {} }
      : this.own ? this.ownFile(this.request) : await this.plainFile();
    const marks = this.result.faults.filter((each) => each.file === file.name)
      .map((each) => ({ line: each.line, text: each.text }));
    this.showSource(file, marks, h("aside", { class: "panel threads", "aria-label": "Threads" }, this.threads.element));
    this.threads.showFault(fault);
    if (fault.file === file.name) this.source.select(fault.line);
  }

  async plainFile() {
    if (this.plain) return this.plain;
    const { file, source } = await this.api.post("kernel/source", { kernel: this.kernels.value });
    this.plain = { name: file, source: source.split("\n"), lines: {} };
    return this.plain;
  }

  sections() {
    return this.result.kernels.flatMap((kernel) => kernel.files.map((file) => ({ kernel, file })));
  }

  // Of the first kernel, the file in which most is moved.
  hottestSection() {
    const [first] = this.result.kernels;
    const most = Math.max(...(first?.files ?? []).map(sectorsOf));
    return Math.max(0, (first?.files ?? []).findIndex((file) => sectorsOf(file) === most));
  }

  showSection(number, line = null) {
    this.section = number;
    const sections = this.sections();
    const { kernel, file } = sections[number];
    const chooser = h("select", { id: "kernel-section", onchange: () => this.showSection(Number(chooser.value)) },
      sections.map((each, position) => h("option", { value: position, selected: position === number },
        `${each.kernel.name} (${each.file.name}): ${sectorsOf(each.file).toLocaleString("en")} sectors`)));
    this.showSource(file, [], h("aside", { class: "panel threads", "aria-label": "Threads" }, this.threads.element),
      h("label", {}, "launch", chooser));
    this.threads.showBlock(kernel, file.name);
    this.source.select(line ?? this.source.hottest());
  }

  showSource(file, marks, aside = null, chooser = null) {
    if (!file) return this.reading.replaceChildren();
    this.source = sourceTable(file, marks, (line) => this.threads.showLine(line, this.source?.figures(line)));
    this.reading.replaceChildren(...[
      h("section", { class: "panel source", "aria-label": "Source" },
        h("div", { class: "row" }, h("h2", {}, file.name), chooser, this.source.tools ?? null), this.source.element,
        this.source.counted ? columnNotes() : null),
      aside].filter(Boolean));
    if (marks.length) this.source.reveal(marks[0].line);
    return undefined;
  }
}

const sectorsOf = (file) => Object.values(file.lines).flat()
  .reduce((sum, each) => sum + (each.space === "global" ? each.actual : 0), 0);

// The two totals that `minillm simulate --profile` ends with.
function totals(both) {
  const tile = (title, { actual, ideal, bytes, instructions }, unit, note) => h("div", { class: "tile" },
    h("span", { class: "quiet" }, title),
    h("strong", {}, `${actual.toLocaleString("en")} ${unit}`),
    h("span", {}, ideal ? `${(actual / ideal).toFixed(2)} times the ideal` : "none"),
    h("span", { class: "quiet" }, ideal ? note(actual, bytes, instructions) : ""));
  return h("div", { class: "tiles" },
    tile("global memory", both.global, "sectors", (actual, bytes, requests) =>
      `${(32 * actual).toLocaleString("en")} bytes moved, ${bytes.toLocaleString("en")} asked for in ${requests.toLocaleString("en")} requests`),
    tile("shared memory", both.shared, "wavefronts", (actual, bytes, requests) =>
      `${bytes.toLocaleString("en")} bytes in ${requests.toLocaleString("en")} requests`));
}
