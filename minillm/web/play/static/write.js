// Write: a text token by token, the sampler as a pipeline, branches; beam search and speculative decoding beside it.
import { h } from "./look/dom.js";
import { settingsForm } from "./look/settings.js";
import { beamsPanel } from "./beams.js";
import { branchesPicture } from "./branches.js";
import { choicePanel } from "./choice.js";
import { speculationPanel } from "./speculation.js";
import { TextTree } from "./text_tree.js";
import { branchesPanel, promptPanel, textPanel } from "./write_panels.js";
import { describe } from "./written.js";

const TEN = 10, MOST = 1000;  // tokens of a run
const PARTS = { sampler: "Sampler", beams: "Beam search", speculation: "Speculative decoding" };
const STYLES = ["write.css", "look/pipeline.css"];
const WIDE = 900;  // pixels from which on the settings are open
// What stays when another view is opened. Every tab has a session of its own.
const kept = { session: crypto.randomUUID(), tree: null, values: null, colour: "surprise", part: "sampler" };

export async function show(root, api, say) {
  const about = await api.post("write/settings");
  const view = new Write(api, say, about);
  root.append(...STYLES.map((href) => h("link", { rel: "stylesheet", href })), ...view.elements);
  if (kept.tree) await view.refresh();
  else await view.begin();
  return () => view.end();
}

class Write {
  // about: the answer of write/settings.
  constructor(api, say, about) {
    Object.assign(this, { api, say, about });
    this.seen = null;      // the selected token; null for the next one
    this.live = null;      // { place, choice, settings }: how the token after `place` would be chosen now
    this.running = null;   // the AbortController of a run, and its count
    this.turn = Promise.resolve();
    this.waiting = 0;      // how many acts are not done yet
    this.frame = null;     // the animation frame that draws
    this.asked = false;    // whether a refresh waits for its turn
    this.form = settingsForm(about.controls, {
      values: kept.values ?? about.values, leaveOut: ["end_tokens"], onChange: () => this.changed(),
    });
    this.prompt = promptPanel(about, kept.tree?.prompt, () => this.inTurn(() => this.begin()));
    this.text = textPanel(about, kept.colour, {
      one: () => this.one(), ten: () => this.run(TEN), run: () => (this.running ? this.stop() : this.run(MOST)),
      back: () => this.back(), again: () => this.again(), select: (node) => this.select(node),
      key: (event) => this.onKey(event), endless: () => this.draw(),
      colour: (name) => { kept.colour = name; this.draw(); },
    });
    this.choice = choicePanel((token) => this.pick(token));
    this.branches = branchesPanel();
    this.elements = this.layout();
    this.onPageKey = (event) => this.pageKey(event);
    document.addEventListener("keydown", this.onPageKey);
    this.open(kept.part);
  }

  end() {
    this.stop();
    this.searches.forEach((search) => search.end());
    document.removeEventListener("keydown", this.onPageKey);
  }

  layout() {
    const promptIds = () => this.promptIds();
    const beams = beamsPanel(this.api, promptIds);
    const speculation = speculationPanel(this.api, promptIds, () => this.form.values());
    this.searches = [beams, speculation];
    const sampler = h("div", { class: "parts" }, this.text.element, this.choice.element, this.branches.element);
    this.parts = { sampler, beams: beams.element, speculation: speculation.element };
    this.choosers = Object.entries(PARTS).map(([part, title]) =>
      h("button", { type: "button", "data-part": part, onclick: () => this.open(part) }, title));
    this.aside = h("aside", { class: "panel", "aria-label": "Settings of the sampler" },
      h("details", { open: innerWidth > WIDE }, h("summary", {}, h("h2", {}, "Settings")), this.form.element));
    this.columns = h("div", { class: "write-columns" },
      h("div", { class: "parts" }, Object.values(this.parts)), this.aside);
    const row = h("div", { class: "row write-parts", role: "group", "aria-label": "Ways to write" }, this.choosers);
    return [this.prompt.element, row, this.columns];
  }

  // part: one of PARTS.
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
    const asked = this.prompt.asked();
    const begun = await this.api.post("write/start", { session: kept.session, ...asked });
    kept.tree = new TextTree({ ...begun, asked });
    this.prompt.note(begun.notes.join(" "));
    await this.moved();
  }

  // The ids of the prompt that is in the field; a new one begins a new text.
  async promptIds() {
    const { prompt, special } = this.prompt.asked();
    const before = kept.tree?.prompt.asked;
    if (before?.prompt !== prompt || before.special !== special) await this.inTurn(() => this.begin());
    return kept.tree.prompt.ids;
  }

  one() {
    return this.inTurn(async () => {
      await this.current();
      kept.tree.grow(kept.tree.here, this.live.choice, this.live.settings);
      await this.refresh();
    });
  }

  // Writes `count` tokens, or until it is stopped or the text ends.
  run(count) {
    return this.inTurn(async () => {
      await this.current();
      this.running = Object.assign(new AbortController(), { count });
      const { choice, settings } = this.live;
      const token = [choice.trace.token];
      const body = { ...this.body(kept.tree.here), token, count, mu: choice.mu, endless: this.text.isEndless() };
      try {
        // Each answer is the choice of the token after the one that was known before.
        await this.api.stream("write/run", body, (next) => {
          const place = kept.tree.grow(kept.tree.here, this.live.choice, settings);
          this.live = { place, choice: next, settings };
          this.drawSoon();
        }, this.running.signal);
      } catch (error) {
        if (error.name !== "AbortError") throw error;
      } finally {
        this.running = null;
        this.draw();
      }
    });
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

  // Another token in place of the selected one, or the last: with the next seed that draws one not tried here.
  again() {
    this.stop();
    return this.inTurn(async () => {
      const last = this.seen ?? kept.tree.here;
      if (!last.parent) return;
      const unlike = last.parent.children.map((child) => child.token);
      const settings = this.form.values();
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

  // node: a token, of which the table is then; null for the next one. A token that was left is gone to.
  select(node) {
    if (node && node.depth > kept.tree.here.depth) return this.goTo(node);
    this.seen = node;
    if (node) return this.draw();
    return this.inTurn(async () => { await this.current(); this.draw(); });
  }

  async moved() {
    this.seen = null;
    await this.refresh();
  }

  changed() {
    kept.values = this.form.values();
    if (this.asked) return;  // a slider that moves: the latest values are read when it is its turn
    this.asked = true;
    const goesOn = this.running?.count === MOST;  // a run takes the new settings
    this.stop();
    this.inTurn(() => { this.asked = false; return this.refresh(); });
    if (goesOn) this.run(MOST);
  }

  // ---------------------------------------------------------------------------------------------- how it is chosen now

  // The request for the choice of the token after a node.
  body(place) {
    const written = kept.tree.written(place);
    return { session: kept.session, prompt: kept.tree.prompt.ids, written, settings: this.form.values(), mu: place.mu };
  }

  // Asks how the next token is chosen, or how the selected one would be, with the present settings.
  async refresh() {
    const place = this.seen ? this.seen.parent : kept.tree.here;
    const settings = this.form.values();
    this.live = null;
    try {
      this.live = { place, settings, choice: await this.api.post("write/next", this.body(place)) };
    } finally {
      this.draw();
    }
  }

  // Makes `live` that of the end of the text, with nothing selected. What is drawn may be older.
  async current() {
    this.seen = null;
    if (this.live?.place !== kept.tree.here) await this.refresh();
  }

  // What the table is of: { place, choice, settings, isNow }; null where nothing can be chosen.
  shown() {
    const { seen, live } = this;
    if (!seen || live?.place === seen.parent) return live && { ...live, isNow: true };
    return { place: seen.parent, choice: seen.choice, settings: seen.settings, isNow: false };
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

  // ------------------------------------------------------------------------------------------------------- the picture

  // Draws once for all tokens that come before the next frame.
  drawSoon() {
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (this.frame) cancelAnimationFrame(this.frame);
    this.frame = null;
    const { tree } = kept;
    const total = tree.prompt.ids.length + tree.here.depth;
    const isLive = this.live?.place === tree.here;
    const visible = isLive ? this.live.choice.visible : Math.min(total, this.about.context);
    this.choice.update(this.shown(), this.seen);
    this.branches.show(branchesPicture(tree, (leaf) => this.goTo(leaf)));
    this.text.update(tree, this.seen, {
      unseen: total - visible, colour: kept.colour, status: this.status(total, visible),
      isRunning: Boolean(this.running), isOver: this.about.ends.includes(tree.here.token),
    });
  }

  status(total, visible) {
    const { here, prompt } = kept.tree;
    const slid = visible < total ? `, the oldest ${total - visible} of the text slid out of view` : "";
    const last = here.parent ? ` Last: ${describe(here)}.` : "";
    const end = this.about.ends.includes(here.token) ? " The text has ended." : "";
    return `Tokens: ${prompt.ids.length} of the prompt, ${here.depth} written. `
      + `The model sees ${visible} of at most ${this.about.context}${slid}.${last}${end}`;
  }
}
