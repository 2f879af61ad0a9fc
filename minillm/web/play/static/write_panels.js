// The panels of Write: the prompt, the text with its buttons, the branches.
import { h } from "./look/dom.js";
import { COLOURS, writtenText } from "./written.js";

const KEYS = "Keys in the text: Space or Enter writes one token, Backspace goes back, ← and → move through the tokens, "
  + "Home and End to its ends.";
const BRANCHES = "Go back, then choose a row of the table or draw again: what was written before stays, and is opened "
  + "again here.";

// about: the answer of write/settings. prompt: what was begun before, if anything was. onBegin(): when it is to begin.
// -> { element, asked() -> the arguments of write/start, note(text) }
export function promptPanel(about, prompt, onBegin) {
  const onkeydown = (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) onBegin();
  };
  const field = h("textarea", { id: "write-prompt", rows: 2, spellcheck: "false", onkeydown });
  field.value = prompt ? prompt.asked.prompt ?? "" : about.prompt;
  const reading = prompt?.asked.special ?? "text";
  const special = h("select", {}, about.readings.map((name) => h("option", { selected: name === reading }, name)));
  const without = h("input", { type: "checkbox", onchange: () => { field.disabled = without.checked; } });
  without.checked = field.disabled = prompt?.asked.prompt === null;
  const notes = h("p", { class: "quiet notes", role: "status" });
  const onsubmit = (event) => {
    event.preventDefault();
    onBegin();
  };
  const element = h("form", { class: "panel prompt-panel", onsubmit },
    h("label", { for: "write-prompt" }, h("h2", {}, "Prompt")), field,
    h("div", { class: "row" },
      h("button", { class: "primary", type: "submit", title: "Ctrl and Enter in the prompt" }, "Begin"),
      h("label", {}, "special tokens", special),
      h("label", {}, without, "no prompt: as the model's texts begin")),
    notes);
  return {
    element,
    asked: () => ({ prompt: without.checked ? null : field.value, special: special.value }),
    note: (text) => { notes.textContent = text; },
  };
}

// acts: what the buttons do, by name, and select(node), key(event), colour(name), endless().
// -> { element, update(tree, seen, state), isEndless() }
export function textPanel(about, colour, acts) {
  const text = writtenText({ onSelect: acts.select, onKey: acts.key });
  const button = (label, name, title, more) =>
    h("button", { type: "button", title, onclick: acts[name], ...more }, label);
  const one = button("One token", "one", "Space or Enter", { class: "primary" });
  const ten = button("Ten", "ten", "Write ten tokens");
  const run = button("Run", "run", "Write until it is stopped, or the text ends");
  const back = button("Back", "back", "Backspace: before the selected token, or the last one");
  const again = button("Draw again", "again", "The next seed's token in place of the selected one, or the last");
  const endless = h("input", { type: "checkbox", onchange: acts.endless });
  const colours = h("select", { onchange: (event) => acts.colour(event.target.value) },
    Object.entries(COLOURS).map(([name, title]) => h("option", { value: name, selected: name === colour }, title)));
  const status = h("p", { class: "quiet", id: "write-status", role: "status" });
  const element = h("section", { class: "panel", "aria-label": "Text" },
    h("div", { class: "row heading" }, h("h2", {}, "Text"), h("label", {}, "colour", colours)),
    text.element,
    h("div", { class: "row" }, one, ten, run, back, again,
      about.ends.length ? h("label", {}, endless, "write on after the end") : null),
    status, h("p", { class: "quiet keys", id: "write-keys" }, KEYS));

  // state: { unseen, colour, status, isRunning, isOver }
  function update(tree, seen, state) {
    const isOver = state.isOver && !endless.checked;
    text.update(tree, seen, state.colour, state.unseen);
    status.textContent = state.status;
    run.textContent = state.isRunning ? "Stop" : "Run";
    run.disabled = !state.isRunning && isOver;
    ten.disabled = state.isRunning || isOver;
    back.disabled = again.disabled = !(seen ?? tree.here).parent;
    text.scroll();
  }

  return { element, update, isEndless: () => endless.checked };
}

// -> { element, show(picture) }
export function branchesPanel() {
  const place = h("div", {});
  const element = h("section", { class: "panel", "aria-label": "Branches" },
    h("h2", {}, "Branches"), h("p", { class: "quiet" }, BRANCHES), place);
  return { element, show: (picture) => place.replaceChildren(picture) };
}
