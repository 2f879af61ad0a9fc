// The page of the sampler: a real text, its saved logits, and all stages computed here (look/stages.js). The whole
// state is in the address: #position=12&u=0.42&top_k=40, so that what is seen can be linked to.
import { h, visible } from "./dom.js";
import { openTheme } from "./theme.js";
import { Refused } from "./stage_settings.js";
import { trace } from "./stages.js";
import { pipeline } from "./pipeline.js";
import { readList, settingsForm } from "./settings.js";

const ROWS = 20;  // tokens that have a row
const NARROW = 0.002;  // intervals of the draw below this width are not drawn one by one
const AT_ONCE = 10;  // positions of the survey
const ESCAPE = -128;  // as in sampler_page.py
const EXAMPLE = "position=31&u=0.42&temperature=0.8&top_k=40&top_p=0.9";  // where the address says nothing

const saved = await readSaved(JSON.parse(document.getElementById("data").textContent));
const { pieces, prompt, text } = saved;
const introduction = "A small model has read this text token by token. At every position its logits are saved here, "
  + `rounded to 1/${saved.steps}. Choose a position, move the settings, and see what each stage of the sampler leaves of `
  + "the prediction. The token that really came is marked. The address of this page holds all of it: copy it to share "
  + "what you see.";
const controls = saved.controls.filter((control) => control.name !== "seed");  // the number drawn is set itself
const state = { position: 0, u: 0.5, coin: 0.5, mu: null, picked: null, settings: {} };
readAddress();

const alert = h("div", { role: "alert" });
const form = settingsForm(controls, { values: state.settings, onChange: (settings) => change({ settings }) });
const words = h("div", { class: "text panel", role: "listbox", tabindex: 0, onkeydown: moveInText, onclick: pickInText,
  "aria-label": "The text: choose the token to predict" }, text.map(wordOf));
const survey = h("p", { class: "quiet", role: "status" });
const place = numberField("position", 0, text.length - 1, 1, (position) => goTo(position));
const number = numberField("u", 0, 0.999999, "any", (u) => change({ u }));
const coin = numberField("coin", 0, 0.999999, "any", (value) => change({ coin: value }));
const mu = numberField("mu", -100, 100, "any", (value) => change({ mu: value }));
const view = pipeline([]);
const lens = h("div", { class: "lens panel row" });
let surveyed = 0;

document.getElementById("sampler").replaceChildren(
  h("p", {}, introduction), alert,
  h("details", { class: "controls panel", open: !matchMedia("(max-width: 760px)").matches },
    h("summary", {}, "Settings"), form.element),
  h("section", { class: "work", "aria-label": "The text and the stages" },
    h("div", { class: "row" },
      labelled(place, "position"),
      button("Back", () => goTo(state.position - 1)), button("Next", () => goTo(state.position + 1)),
      labelled(number, "number drawn, u"), button("Draw", draw), button("Take it and go on", goOn, "primary"),
      labelled(coin, "number for XTC"), labelled(mu, "mirostat's μ, bits")),
    words, survey, h("div", { class: "panel" }, view), lens));
openTheme();
addEventListener("hashchange", () => { readAddress(); form.set(state.settings); show(); });
show();

// ------------------------------------------------------------------------------------------------------- the state

function change(changed) {
  Object.assign(state, changed);
  show();
}

function goTo(position) {
  change({ position: Math.min(Math.max(Math.round(position), 0), text.length - 1), picked: null });
}

function draw() {
  change({ u: Math.random(), coin: Math.random() });
}

// The text goes on as it really did; only mirostat remembers what was drawn.
function goOn() {
  const drawn = traceAt(state.position).draw;
  state.mu = state.settings.mirostat_tau ? drawn.mu : null;
  Object.assign(state, { u: Math.random(), coin: Math.random() });
  goTo(state.position + 1);
}

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1) || EXAMPLE);
  const numberOf = (name, otherwise) => {
    const value = given.get(name) || "none";
    return Number.isFinite(Number(value)) ? Number(value) : otherwise;
  };
  state.position = Math.min(Math.max(Math.round(numberOf("position", 0)), 0), text.length - 1);
  state.u = Math.min(Math.max(numberOf("u", 0.5), 0), 1 - 2 ** -53);
  state.coin = Math.min(Math.max(numberOf("coin", 0.5), 0), 1 - 2 ** -53);
  state.mu = numberOf("mu", null);
  state.picked = numberOf("picked", null);
  const settings = controls.filter((control) => given.has(control.name))
    .map((control) => [control.name, readValue(control, given.get(control.name))]);
  state.settings = Object.fromEntries(settings.filter(([, value]) => value !== null));
}

function readValue(control, value) {
  if (control.kind === "choice") return control.choices.includes(value) ? value : null;
  if (control.least === undefined) return readList(value, control.kind !== "ids");
  return value !== "" && Number.isFinite(Number(value)) ? Number(value) : null;
}

function writeAddress() {
  const { position, u, coin: chance, mu: bits, picked, settings } = state;
  const parts = { position, u, coin: settings.xtc_probability ? chance : null, mu: bits, picked, ...settings };
  const address = Object.entries(parts).filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${encodeURIComponent(textOf(value))}`).join("&");
  history.replaceState(null, "", `#${address.replaceAll("%2C", ",").replaceAll("%3A", ":")}`);
}

function textOf(value) {
  if (Array.isArray(value)) return value.join(",");
  if (typeof value !== "object") return value;
  return Object.entries(value).map((pair) => pair.join(":")).join(",");
}

// ---------------------------------------------------------------------------------------------------- what is shown

function show() {
  surveyed += 1;  // ends a survey that is under way
  writeAddress();
  for (const [field, value] of [[place, state.position], [number, state.u], [coin, state.coin], [mu, muNow()]]) {
    if (document.activeElement !== field) field.value = value;
  }
  coin.parentElement.hidden = !state.settings.xtc_probability;
  mu.parentElement.hidden = !state.settings.mirostat_tau;
  markPosition();
  let traced;
  try {
    traced = traceAt(state.position);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    alert.textContent = error.message;
    return;
  }
  alert.textContent = "";
  const came = text[state.position];
  const picked = state.picked ?? came;
  view.update(columnsOf(traced, [came, picked, traced.draw.token]),
    { draw: drawOf(traced.draw), came, picked, onPick: (id) => change({ picked: id }), onMove: (u) => change({ u }) });
  lookAt(picked, traced);
  setTimeout(surveyText, 150, surveyed);
}

function traceAt(position) {
  const context = { prompt, written: text.slice(0, position), u: state.u, coin: state.coin, mu: muNow() };
  return trace(logitsAt(position), state.settings, context);
}

function muNow() {
  return state.mu ?? 2 * (state.settings.mirostat_tau ?? 0);
}

// The rows: the tokens that are likeliest at any stage, and those that must be seen.
function columnsOf({ stages }, seen) {
  const most = pieces.map((piece, id) => Math.max(...stages.map((stage) => stage.p[id])));
  const likeliest = [...pieces.keys()].sort((a, b) => most[b] - most[a] || a - b).slice(0, ROWS);
  const first = stages[0].p;
  const rows = [...new Set([...likeliest, ...seen])].sort((a, b) => first[b] - first[a] || a - b);
  return stages.map(({ name, logits, p, kept, removed, entropy, choices }) => ({
    name, note: noteOf(name), kept, removed, entropy, choices,
    tokens: rows.map((id) => ({ id, text: pieces[id], p: logits[id] > -Infinity ? p[id] : null })),
    rest: Math.max(1 - rows.reduce((sum, id) => sum + p[id], 0), 0),
  }));
}

function noteOf(name) {
  const value = state.settings[name];
  if (value === undefined) return name === "model" ? "no setting" : "";
  return typeof value === "object" ? `${Object.keys(value).length} given` : String(value);
}

function drawOf(drawn) {
  const segments = [];
  let past = 0;
  drawn.probabilities.forEach((p, id) => {
    if (p >= NARROW) segments.push({ id, text: pieces[id], first: past, past: past + p });
    past += p;
  });
  return { ...drawn, text: pieces[drawn.token], segments };
}

function lookAt(id, { stages, draw: drawn }) {
  const before = [...stages[0].p].filter((p) => p > stages[0].p[id]).length;
  const removing = stages.find((stage) => stage.logits[id] === -Infinity);
  const end = removing ? `removed by ${removing.name}` : `in the end ${(100 * drawn.probabilities[id]).toFixed(2)} %`;
  const bias = state.settings.logit_bias?.[id] ?? 0;
  const biased = (amount) => button(amount > 0 ? "+1" : "−1", () => setBias(id, Number(bias) + amount));
  lens.replaceChildren(
    h("p", {}, h("b", { class: "mono" }, `“${visible(pieces[id])}”`),
      ` token ${id}, logit ${stages[0].logits[id].toFixed(3)}, rank ${before + 1}, `,
      `the model gives it ${(100 * stages[0].p[id]).toFixed(2)} %, ${end}.`),
    h("span", { class: "row" }, `bias ${bias}`,
      bias === "-inf" ? null : [biased(1), biased(-1), button("Ban it", () => setBias(id, "-inf"))],
      bias ? button("No bias", () => setBias(id, 0)) : null));
}

function setBias(id, number) {
  const bias = { ...state.settings.logit_bias, [id]: number };
  if (!number) delete bias[id];
  form.set({ ...state.settings, logit_bias: bias });
  const focused = document.activeElement?.textContent;
  change({ settings: form.values(), picked: id });
  [...lens.querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
}

// The whole text under these settings: what the cuts would have made impossible, and how surprising the rest is.
// A few positions at a time, so that the page answers in between; it ends when something changes.
async function surveyText(wanted) {
  let surprise = 0, lost = 0;
  for (const [position, id] of text.entries()) {
    if (position % AT_ONCE === 0) await new Promise((goOn) => setTimeout(goOn));
    if (wanted !== surveyed) return;
    let end;
    try {
      end = traceAt(position).stages.at(-1);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      survey.textContent = `At position ${position}: ${error.message}`;
      return;
    }
    const isLost = end.logits[id] === -Infinity;
    words.children[position].classList.toggle("lost", isLost);
    words.children[position].style.setProperty("--p", end.p[id].toFixed(3));
    if (isLost) lost += 1;
    else surprise -= Math.log(end.p[id]);
  }
  const perplexity = Math.exp(surprise / (text.length - lost));
  survey.textContent = `With these settings the token that really came is removed at ${lost} of ${text.length} `
    + `positions (struck out); where it is left, the perplexity is ${perplexity.toFixed(2)}. The line below a token is as `
    + "strong as the token is likely.";
}

// --------------------------------------------------------------------------------------------------------- the text

function wordOf(id, position) {
  const name = visible(pieces[id]);
  return h("span", { role: "option", id: `word-${position}`, "aria-selected": "false", "aria-label": name },
    pieces[id].replaceAll("\n", "⏎\n"));
}

function markPosition() {
  const now = words.children[state.position];
  if (now.getAttribute("aria-selected") === "true") return;
  words.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  now.setAttribute("aria-selected", "true");
  words.setAttribute("aria-activedescendant", now.id);
  const { offsetTop, offsetHeight } = now;
  if (offsetTop < words.scrollTop || offsetTop + offsetHeight > words.scrollTop + words.clientHeight) {
    words.scrollTop = offsetTop - words.clientHeight / 2;
  }
}

function moveInText(event) {
  const { position } = state;
  const to = { ArrowRight: position + 1, ArrowLeft: position - 1, Home: 0, End: text.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  goTo(to);
}

function pickInText(event) {
  const at = [...words.children].indexOf(event.target);
  if (at >= 0) goTo(at);
}

// ---------------------------------------------------------------------------------------------------- small helpers

function numberField(name, min, max, step, onNumber) {
  const read = ({ target }) => {
    if (target.value !== "" && target.validity.valid) onNumber(Number(target.value));
  };
  return h("input", { type: "number", class: "number", id: name, min, max, step, oninput: read });
}

function labelled(field, name) {
  return h("label", {}, name, field);
}

function button(name, onclick, kind = "") {
  return h("button", { type: "button", class: kind, onclick }, name);
}

// --------------------------------------------------------------------------------------------------- the saved data

async function readSaved(data) {
  const read = JSON.parse(new TextDecoder().decode(await inflated(data.words)));
  return { ...read, logits: logitsOf(await inflated(data.logits), read) };
}

async function inflated(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
}

// The format is that of bytes_of in sampler_page.py: means, differences from them, differences too large for a byte.
function logitsOf(buffer, { pieces: { length: vocabulary }, text: { length: positions }, steps }) {
  const means = new Int16Array(buffer, 0, vocabulary);
  const differences = new Int8Array(buffer, 2 * vocabulary, positions * vocabulary);
  const escaped = new Int16Array(buffer, 2 * vocabulary + differences.length)[Symbol.iterator]();
  return Float32Array.from(differences, (difference, at) => {
    const exact = difference === ESCAPE ? escaped.next().value : difference;
    return (means[at % vocabulary] + exact) / steps;
  });
}

function logitsAt(position) {
  return saved.logits.subarray(position * pieces.length, (position + 1) * pieces.length);
}
