// The form of a search: its button begins it, and stops it while it runs.
import { h } from "./look/dom.js";

export function numberField(label, properties) {
  return h("label", {}, label, h("input", { type: "number", ...properties }));
}

// The number in a field; null where it is empty.
export function numberOf(label) {
  const value = label.querySelector("input").valueAsNumber;
  return Number.isNaN(value) ? null : value;
}

// begin(signal): a promise of the end. -> { form, end() }
export function searchForm(fields, title, begin) {
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
