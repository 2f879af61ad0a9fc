// Write: a text token by token, the sampler as a pipeline, branches; beam search and speculative decoding beside it.
import { h, visible } from "./look/dom.js";
import { pipeline } from "./look/pipeline.js";
import { settingsForm } from "./look/settings.js";
import { branchesPicture } from "./branches.js";
import { beamsPanel, speculationPanel } from "./search.js";
import { TextTree } from "./text_tree.js";
import { COLOURS, describe, writtenText } from "./written.js";

const TEN = 10, MOST = 1000;  // tokens of a run
const KEYS = "Keys in the text: Space or Enter writes one token, Backspace goes back, ← and → move through the tokens, "
  + "Home and End to its ends.";
// What stays when another view is opened. Every tab has a session of its own.
const kept = { session: crypto.randomUUID(), tree: null, values: null, colour: "surprise", part: "sampler" };

export async function show(root, api, say) {
  const about = await api.post("write/settings");
  const view = new Write(root, api, say, about);
  if (kept.tree) await view.refresh();
  else await view.begin();
  return () => view.end();
}

class Write {
  constructor(root, api, say, about) {
    Object.assign(this, { api, say, about });
    this.seen = null;      // the selected token; null for the next one
    this.live = null;      // { place, choice, settings }: how the token after `place` would be chosen now
    this.running = null;   // the AbortController of a run
    this.turn = Promise.resolve();
    this.waiting = 0;      // how many acts are not done yet
    this.frame = null;     // the animation frame that draws
    this.asked = false;    // whether a refresh waits for its turn
    this.form = settingsForm(about.controls, {
      values: kept.values ?? about.values, leaveOut: ["end_tokens"], onChange: () => this.changed(),
    });
    this.text = writtenText({ onSelect: (node) => this.select(node), onKey: (event) => this.onKey(event) });
    this.pipeline = pipeline([]);
    this.onPageKey = (event) => this.pageKey(event);
    document.addEventListener("keydown", this.onPageKey);
    root.append(...this.layout());
    this.open(kept.part);
  }

  end() {
    this.stop();
    this.panels.beams.end();
    this.panels.speculation.end();
    document.removeEventListener("keydown", this.onPageKey);
  }

  // ---------------------------------------------------------------------------------------------------- the elements

  layout() {
    const sampler = h("section", { id: "part-sampler", class: "parts" }, this.textPanel(), this.stagesPanel(), this.branchesPanel());
    const promptIds = () => this.promptIds();
    this.panels = { beams: beamsPanel(this.api, promptIds), speculation: speculationPanel(this.api, promptIds, () => this.form.values()) };
    this.parts = { sampler, beams: this.panels.beams.element, speculation: this.panels.speculation.element };
    const names = { sampler: "Sampler", beams: "Beam search", speculation: "Speculative decoding" };
    this.choosers = Object.entries(names).map(([name, title]) =>
      h("button", { type: "button", "data-part": name, onclick: () => this.open(name) }, title));
    this.aside = h("aside", { class: "panel", "aria-label": "Settings of the sampler" },
      h("details", { open: innerWidth > 900 }, h("summary", {}, h("h2", {}, "Settings")), this.form.element));
    const styles = ["write.css", "look/pipeline.css"].map((href) => h("link", { rel: "stylesheet", href }));
    this.columns = h("div", { class: "write-columns" }, h("div", { class: "parts" }, Object.values(this.parts)), this.aside);
    return [...styles, this.promptPanel(), h("div", { class: "row write-parts", role: "group", "aria-label": "Ways to write" }, this.choosers), this.columns];
  }

  promptPanel() {
    const prompt = kept.tree ? kept.tree.prompt.text : this.about.prompt;
    this.prompt = h("textarea", { id: "write-prompt", rows: 2, spellcheck: "false",
      onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.inTurn(() => this.begin()); } });
    this.prompt.value = prompt;
    this.special = h("select", { id: "write-special" }, this.about.readings.map((name) =>
      h("option", { value: name, selected: name === "text" }, name)));
    this.without = h("input", { type: "checkbox", onchange: () => { this.prompt.disabled = this.without.checked; } });
    this.notes = h("p", { class: "quiet notes", role: "status" });
    return h("form", { class: "panel prompt-panel", onsubmit: (event) => { event.preventDefault(); this.inTurn(() => this.begin()); } },
      h("label", { for: "write-prompt" }, h("h2", {}, "Prompt")), this.prompt,
      h("div", { class: "row" }, h("button", { class: "primary", type: "submit", title: "Ctrl and Enter in the prompt" }, "Begin"),
        h("label", {}, "special tokens", this.special),
        h("label", {}, this.without, "no prompt: as the model's texts begin")),
      this.notes);
  }

  textPanel() {
    const button = (label, title, act, more) => h("button", { type: "button", title, onclick: act, ...more }, label);
    this.buttons = {
      one: button("One token", "Space or Enter", () => this.one(), { class: "primary" }),
      ten: button("Ten", "Write ten tokens", () => this.run(TEN)),
      run: button("Run", "Write until it is stopped, or the text ends", () => this.running ? this.stop() : this.run(MOST)),
      back: button("Back", "Backspace: before the selected token, or the last one", () => this.back()),
      again: button("Draw again", "Another token in place of the selected one, or the last, with the next seed", () => this.again()),
    };
    this.endless = h("input", { type: "checkbox", onchange: () => this.draw() });
    const colour = h("select", { onchange: (event) => { kept.colour = event.target.value; this.draw(); } },
      Object.entries(COLOURS).map(([name, title]) => h("option", { value: name, selected: name === kept.colour }, title)));
    this.status = h("p", { class: "quiet", id: "write-status", role: "status" });
    return h("section", { class: "panel", "aria-label": "Text" },
      h("div", { class: "row heading" }, h("h2", {}, "Text"), h("label", {}, "colour", colour)),
      this.text.element,
      h("div", { class: "row" }, Object.values(this.buttons),
        this.about.ends.length ? h("label", {}, this.endless, "write on after the end") : null),
      this.status, h("p", { class: "quiet keys", id: "write-keys" }, KEYS));
  }

  stagesPanel() {
    this.heading = h("h2", { id: "write-heading" });
    this.remark = h("p", { class: "quiet", id: "write-remark" });
    return h("section", { class: "panel", "aria-labelledby": "write-heading" }, this.heading, this.remark, this.pipeline);
  }

  branchesPanel() {
    this.branches = h("div", {});
    return h("section", { class: "panel", "aria-label": "Branches" }, h("h2", {}, "Branches"),
      h("p", { class: "quiet" }, "Go back, then choose a row of the table or draw again: what was written before stays, and is opened here."),
      this.branches);
  }

  // sampler, beams or speculation
  open(part) {
    kept.part = part;
    for (const [name, element] of Object.entries(this.parts)) element.hidden = name !== part;
    for (const button of this.choosers) button.setAttribute("aria-pressed", String(button.dataset.part === part));
    this.aside.hidden = part === "beams";  // the search uses the model's own probabilities
    this.columns.classList.toggle("one-column", this.aside.hidden);
  }

  // ----------------------------------------------------------------------------------------------------- what is done

  // One after another. What goes wrong is shown by the frame, and does not stop what comes after it.
  inTurn(act) {
    this.waiting += 1;
    const done = this.turn.then(() => { this.say(""); return act(); }).finally(() => { this.waiting -= 1; });
    this.turn = done.catch(() => {});
    return done.then((result) => result);  // a promise of its own, whose failure the frame sees
  }

  async begin() {
    this.stop();
    const prompt = this.without.checked ? null : this.prompt.value;
    const begun = await this.api.post("write/start", { session: kept.session, prompt, special: this.special.value });
    kept.tree = new TextTree({ ...begun, asked: prompt, special: this.special.value });
    this.notes.textContent = begun.notes.join(" ");
    this.seen = null;
    await this.refresh();
  }

  // The ids of the prompt that is in the field; a new one begins a new text.
  async promptIds() {
    const asked = this.without.checked ? null : this.prompt.value;
    const { prompt } = kept.tree ?? { prompt: {} };
    if (prompt.asked !== asked || prompt.special !== this.special.value) await this.inTurn(() => this.begin());
    return kept.tree.prompt.ids;
  }

  one() {
    return this.inTurn(async () => {
      await this.current();
      kept.tree.grow(kept.tree.here, this.live.choice, this.live.settings);
      await this.refresh();
    });
  }

  run(count) {
    return this.inTurn(async () => {
      await this.current();
      this.running = new AbortController();
      let before = this.live;
      const body = { ...this.body(kept.tree.here), token: [before.choice.trace.token], count, mu: before.choice.mu,
        endless: this.endless.checked };
      try {
        await this.api.stream("write/run", body, (choice) => {
          const place = kept.tree.grow(kept.tree.here, before.choice, before.settings);
          this.live = before = { place, choice, settings: before.settings };
          this.drawSoon();
        }, this.running.signal);
      } finally {
        this.running = null;
        this.draw();
      }
    }).catch((error) => { if (error.name !== "AbortError") throw error; });
  }

  stop() {
    this.running?.abort();
  }

  back() {
    this.stop();
    return this.inTurn(async () => {
      const last = this.seen ?? kept.tree.here;
      if (!last.parent) return;
      kept.tree.here = last.parent;
      await this.moved();
    });
  }

  again() {
    this.stop();
    return this.inTurn(async () => {
      const last = this.seen ?? kept.tree.here;
      if (!last.parent) return;
      const settings = this.form.values();
      const unlike = last.parent.children.map((child) => child.token);
      const choice = await this.api.post("write/next", { ...this.body(last.parent), unlike });
      this.form.set({ ...settings, seed: choice.seed });
      kept.values = this.form.values();
      kept.tree.grow(last.parent, choice, kept.values);
      await this.moved();
    });
  }

  // A row of the table: its token is written after the place that the table is of.
  pick(token) {
    const { choice, settings, place } = this.shown();
    this.stop();
    return this.inTurn(async () => {
      kept.tree.grow(place, choice, settings, token);
      await this.moved();
    });
  }

  goTo(node) {
    this.stop();
    return this.inTurn(async () => {
      kept.tree.visit(node);
      await this.moved();
    });
  }

  select(node) {
    if (node && node.depth > kept.tree.here.depth) return this.goTo(node);
    this.seen = node;
    if (!node) return this.inTurn(() => this.current());
    return this.draw();
  }

  async moved() {
    this.seen = null;
    await this.refresh();
  }

  changed() {
    kept.values = this.form.values();
    if (this.asked) return;  // a slider that moves: the latest values are read when it is its turn
    this.asked = true;
    this.inTurn(() => { this.asked = false; return this.refresh(); });
  }

  // ---------------------------------------------------------------------------------------------- how it is chosen now

  // The request for the choice of the token after a node.
  body(place) {
    const { prompt } = kept.tree;
    return { session: kept.session, prompt: prompt.ids, written: kept.tree.written(place), settings: this.form.values(), mu: place.mu };
  }

  // Asks how the next token is chosen, or how the selected one would be, with the present settings.
  async refresh() {
    const place = this.seen ? this.seen.parent : kept.tree.here;
    this.live = null;
    const settings = this.form.values();
    try {
      this.live = { place, settings, choice: await this.api.post("write/next", this.body(place)) };
    } finally {
      this.draw();
    }
  }

  // Makes `live` that of the end of the text, with nothing selected.
  async current() {
    this.seen = null;
    if (this.live?.place !== kept.tree.here) await this.refresh();
    else this.draw();
  }

  // What the table is of: { place, choice, settings, isNow }.
  shown() {
    const { seen, live } = this;
    if (seen && live?.place !== seen.parent) return { place: seen.parent, choice: seen.choice, settings: seen.settings, isNow: false };
    return live && { ...live, isNow: true };
  }

  // ------------------------------------------------------------------------------------------------------ the keyboard

  onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const nodes = [...kept.tree.path(), null, ...kept.tree.continuation()];
    const at = nodes.indexOf(this.seen);
    const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: nodes.indexOf(null) };
    if (event.key in moves) {
      const to = nodes[moves[event.key]];
      if (to !== undefined && to !== this.seen) this.select(to);
    } else if (event.key === " " || event.key === "Enter") {
      if (!event.repeat || !this.waiting) this.one();
    } else if (event.key === "Backspace") {
      this.back();
    } else {
      return;
    }
    event.preventDefault();
  }

  // The same keys where nothing else has the focus.
  pageKey(event) {
    const isFree = event.target === document.body || event.target.id === "view";
    if (isFree && kept.part === "sampler" && kept.tree) this.onKey(event);
  }

  // --------------------------------------------------------------------------------------------------------- the picture

  // Draws once for all tokens that come before the next frame.
  drawSoon() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    const { tree } = kept;
    const shown = this.shown();
    const total = tree.prompt.ids.length + tree.here.depth;
    const visibleNow = this.live?.place === tree.here ? this.live.choice.visible : Math.min(total, this.about.context);
    this.text.update(tree, this.seen, kept.colour, total - visibleNow);
    this.drawStages(shown);
    this.branches.replaceChildren(branchesPicture(tree, (leaf) => this.goTo(leaf)));
    this.drawStatus(total, visibleNow);
    const last = this.seen ?? tree.here;
    this.buttons.back.disabled = this.buttons.again.disabled = !last.parent;
    this.buttons.run.textContent = this.running ? "Stop" : "Run";
    this.buttons.ten.disabled = Boolean(this.running) || this.hasEnded();
    this.buttons.run.disabled = !this.running && this.hasEnded();
    this.text.scroll();
  }

  hasEnded() {
    return this.about.ends.includes(kept.tree.here.token) && !this.endless.checked;
  }

  drawStatus(total, visibleNow) {
    const { here, prompt } = kept.tree;
    const { context } = this.about;
    const slid = visibleNow < total ? `, the oldest ${total - visibleNow} of the text slid out of view` : "";
    const last = here.parent ? ` Last: ${describe(here)}.` : "";
    const end = this.about.ends.includes(here.token) ? " The text has ended." : "";
    this.status.textContent = `Tokens: ${prompt.ids.length} of the prompt, ${here.depth} written. The model sees ${visibleNow} `
      + `of at most ${context}${slid}.${last}${end}`;
  }

  drawStages(shown) {
    this.pipeline.hidden = !shown;
    const { seen } = this;
    if (!shown) {
      this.heading.textContent = "No token can be chosen with these settings";
      this.remark.textContent = "";
      return;
    }
    const name = seen && `“${visible(seen.piece)}” (token ${seen.depth})`;
    const would = seen && shown.isNow;
    this.heading.textContent = !seen ? "How the next token is chosen" : `How ${name} ${would ? "would be chosen with these settings" : "was chosen"}`;
    const hand = seen?.byHand ? "It was chosen by hand, not by the number drawn. " : "";
    this.remark.textContent = `${hand}${seen ? "Choose a row, and the text branches here." : "Choose a row to write that token in place of the one drawn."}`;
    this.pipeline.update(stagesOf(shown), { draw: drawOf(shown), came: seen?.token, onPick: (token) => this.pick(token) });
  }
}

// The columns of look/pipeline.js.
function stagesOf({ choice, settings }) {
  const { trace, rows, pieces, shares } = choice;
  return trace.stages.map((stage, at) => {
    const tokens = rows.map((id, row) => ({ id, text: pieces[row], p: shares[at][row] }));
    const rest = Math.max(0, 1 - tokens.reduce((sum, { p }) => sum + (p ?? 0), 0));
    return { ...stage, note: noteOf(stage.name, settings), tokens, rest };
  });
}

// What a stage is set to.
function noteOf(name, settings) {
  const value = settings[name];
  if (name === "model" || value === undefined) return "";
  return typeof value === "object" ? `${Object.keys(value).length} tokens` : String(value);
}

function drawOf({ choice }) {
  const { trace, rows, pieces } = choice;
  const text = new Map(rows.map((id, row) => [id, pieces[row]]));
  const segments = choice.segments.map(([id, first, past]) => ({ id, text: text.get(id), first, past }));
  return { u: trace.drawn, first: trace.first, past: trace.past, token: trace.token, text: choice.text, p: trace.probability, segments };
}
