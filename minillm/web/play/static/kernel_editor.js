// The editor for a source of one's own, and how its kernel is launched.
import { h } from "./look/dom.js";

// onExample(example) is called after one was put in.
export function editor(examples, onExample) {
  return new Editor(examples, onExample);
}

class Editor {
  constructor(examples, onExample) {
    Object.assign(this, { examples, onExample, marked: null });
    this.example = h("select", { onchange: () => this.open(Number(this.example.value)) },
      examples.map((each, position) => h("option", { value: position }, each.title)));
    this.file = h("input", { value: "kernel.cu", class: "medium", spellcheck: "false" });
    this.picker = h("input", { type: "file", accept: ".cu,.cuh,text/plain", onchange: () => this.load() });
    this.gutter = h("pre", { class: "gutter", "aria-hidden": "true" });
    this.text = h("textarea", { rows: 14, wrap: "off", spellcheck: "false", autocapitalize: "off", id: "kernel-source",
      "aria-label": "Source", "aria-describedby": "kernel-mark", oninput: () => this.changed(), onscroll: () => this.follow() });
    this.message = h("p", { class: "bad", id: "kernel-mark" });
    this.fields = {
      name: field("kernel", "the file's only one", "medium"),
      grid: field("grid", "4 or 4,4", "short"),
      block: field("block", "256 or 16,16", "short"),
      shared: field("dynamic shared bytes", "0", "short"),
    };
    this.arguments = h("textarea", { rows: 5, wrap: "off", spellcheck: "false", class: "few" });
    this.expect = h("textarea", { rows: 5, wrap: "off", spellcheck: "false", class: "few" });
    this.element = h("div", { class: "editor", hidden: true },
      h("div", { class: "row" }, h("label", {}, "example", this.example), h("label", {}, "or a file", this.picker), h("label", {}, "name", this.file)),
      h("div", { class: "edit" }, this.gutter, this.text), this.message,
      h("div", { class: "row" }, Object.values(this.fields).map((each) => each.label)),
      h("div", { class: "grid" },
        h("label", { class: "column" }, "arguments, one a line: 2, float32:2, float32[1000], int32[8,4]=0", this.arguments),
        h("label", { class: "column" }, "what arrays should be afterwards, one a line: y = a * x + y", this.expect)));
  }

  open(number) {
    const example = this.examples[number];
    this.example.value = number;
    this.text.value = example.source;
    this.file.value = example.file;
    for (const name of ["name", "grid", "block"]) this.fields[name].input.value = example[name];
    this.fields.shared.input.value = "";
    this.arguments.value = example.arguments.join("\n");
    this.expect.value = example.expect.join("\n");
    this.changed();
    this.onExample(example);
  }

  async load() {
    const [file] = this.picker.files;
    if (!file) return;
    this.text.value = await file.text();
    this.file.value = file.name;
    this.fields.name.input.value = "";
    this.changed();
  }

  value() {
    const rows = (area) => area.value.split("\n").map((row) => row.trim()).filter(Boolean);
    return {
      source: this.text.value,
      file: this.file.value.trim(),
      name: this.fields.name.input.value.trim(),
      grid: this.fields.grid.input.value.trim() || "1",
      block: this.fields.block.input.value.trim() || "32",
      shared: Number(this.fields.shared.input.value || 0),
      arguments: rows(this.arguments),
      expect: rows(this.expect),
    };
  }

  // Marks a line, with what the compiler or the check says of it; null takes the mark away.
  mark(line, text) {
    this.marked = line;
    this.message.textContent = line ? `✗ ${text}` : "";
    this.number();
    if (line) this.text.scrollTop = Math.max(0, (line - 5)) * parseFloat(getComputedStyle(this.text).lineHeight);
  }

  changed() {
    this.mark(null, "");
  }

  number() {
    const count = this.text.value.split("\n").length;
    this.gutter.replaceChildren(...Array.from({ length: count }, (_, position) =>
      h("span", { class: position + 1 === this.marked ? "bad" : null }, `${position + 1 === this.marked ? "✗" : ""}${position + 1}\n`)));
    this.follow();
  }

  follow() {
    this.gutter.scrollTop = this.text.scrollTop;
  }
}

function field(title, placeholder, size) {
  const input = h("input", { placeholder, class: size, spellcheck: "false" });
  return { input, label: h("label", {}, title, input) };
}
