// The view Train: one run driven from here, and the records of all runs laid over one another.
import { h } from "./look/dom.js";
import { lineChart, styleOf } from "./look/plots.js";
import { heatStrip, smallMultiples } from "./look/strips.js";
import { createRecord, takeIn, takeStep, points, layersOf, inWords, isOfPreferences, nats } from "./train_records.js";
import { runForm } from "./train_form.js";
import { sessionBar, isOver } from "./train_session.js";

const OFTEN = 500, SELDOM = 1500; // milliseconds between two questions to the server
const REDRAWN = 1500; // milliseconds between two drawings of the curves
const MOST = 12; // runs drawn at the same time
const MOST_SAMPLES = 40;

export async function show(root, api, say) {
  const records = new Map(); // the runs that are drawn, by name
  const stopped = new AbortController();
  let session = null, runs = [], detailed = null, timer = null, lastState = "", isNew = false, drawnAt = 0;

  const form = runForm(await api.post("train/form"), start);
  const bar = sessionBar(ask);
  const list = h("ul", { class: "run-list" });
  const words = h("ul", { class: "run-words" });
  const charts = chartsOf();
  const which = h("select", { id: "detailed", onchange: () => choose(which.value) });
  const samples = samplesPanel((temperature) => ask("train/write", { temperature }));
  const newRun = h("details", { class: "panel", open: true }, h("summary", {}, h("h2", {}, "New run")), form.element);
  root.append(
    h("link", { rel: "stylesheet", href: "train.css" }),
    h("div", { class: "train-sides" }, newRun,
      h("section", { class: "panel", "aria-labelledby": "runs-title" }, h("h2", { id: "runs-title" }, "Runs"), list)),
    h("div", { class: "train-main" }, bar.element,
      h("section", { class: "panel", "aria-label": "curves" }, words, charts.loss.element),
      h("div", { class: "grid" }, [charts.rate, charts.norm].map((each) => h("div", { class: "panel" }, each.element))),
      h("section", { class: "panel", "aria-label": "details of one run" },
        h("p", { class: "row" }, h("label", { for: "detailed" }, "Layers and texts of"), which),
        charts.gradients.element, charts.weights.element, samples.element)));

  // ---- what is asked of the server

  async function ask(path, body) {
    say("");
    const answer = await api.post(path, body, stopped.signal);
    takeSession(answer);
    return answer;
  }

  async function start(values) {
    await ask("train/start", values);
    if (matchMedia("(max-width: 900px)").matches) newRun.open = false;
    bar.element.scrollIntoView({ block: "nearest" });
    soon(0);
  }

  async function resume(name) {
    records.delete(name);
    await ask("train/resume", { run: name });
    soon(0);
  }

  // Goes on after an error, too: the frame shows it, and the next answer may be a good one.
  async function look() {
    try {
      if (!document.hidden) await takeNews();
    } finally {
      soon(isOver(session) ? SELDOM : OFTEN);
    }
  }

  async function takeNews() {
    const offsets = Object.fromEntries([...records.values()].map((record) => [record.name, record.offset]));
    const now = await api.post("train/now", { runs: offsets }, stopped.signal);
    takeSession(now.session);
    for (const [name, news] of Object.entries(now.runs)) {
      const record = records.get(name);
      if (news.gone) drop(name);
      else if (record && record.offset === offsets[name]) isNew = takeIn(record, news) || isNew;
      if (news.problem) say(news.problem);
    }
    const isCalm = isOver(session) || session.state === "paused";
    if (isNew && (isCalm || performance.now() - drawnAt > REDRAWN)) draw();
  }

  function soon(milliseconds) {
    clearTimeout(timer);
    if (!stopped.signal.aborted) timer = setTimeout(look, milliseconds);
  }

  function takeSession(next) {
    const isOther = next?.number !== session?.number;
    session = next;
    const state = `${session?.number} ${isOver(session)} ${session?.run}`;
    if (state !== lastState) {
      lastState = state;
      if (session?.run && isOther) records.delete(session.run); // a resumed run has taken back its last lines
      if (session?.run && !records.has(session.run)) tick(session.run, true);
      if (session?.run) detailed = session.run;
      refreshRuns();
    }
    isNew = takeStep(records.get(session?.run), session) || isNew;
    root.classList.toggle("trains", session !== null);
    bar.show(session);
    samples.enable(!isOver(session) && session.settings !== undefined);
  }

  // ---- the runs that are drawn

  async function refreshRuns() {
    runs = (await api.post("train/runs", {}, stopped.signal)).runs;
    form.refresh(runs.map((run) => run.name));
    showRuns();
  }

  function tick(name, on) {
    if (on && records.size >= MOST) say(`up to ${MOST} runs are drawn at the same time: untick another first`);
    else if (on) records.set(name, createRecord(name));
    else records.delete(name);
    if (!records.has(detailed)) detailed = [...records.keys()][0] ?? null;
    const names = [...records.keys()].map(encodeURIComponent).join(",");
    history.replaceState(null, "", names ? `#train?runs=${names}` : "#train");
    showRuns();
    draw();
    soon(0);
  }

  function drop(name) {
    say(`${name} is gone: its folder has no metrics.jsonl`);
    tick(name, false);
    refreshRuns();
  }

  function showRuns() {
    const isBusy = !isOver(session);
    list.replaceChildren(...runs.map((run) => runEntry(run, {
      ticked: records.has(run.name), style: styleOf([...records.keys()].indexOf(run.name)),
      isTraining: isBusy && session.run === run.name, canResume: !isBusy && !run.is_over,
      tick: (on) => tick(run.name, on), resume: () => resume(run.name),
    })));
    if (!runs.length) list.replaceChildren(h("li", { class: "quiet" }, "no run yet: start one"));
  }

  // ---- what is drawn

  function choose(name) {
    detailed = name;
    draw();
  }

  function draw() {
    isNew = false;
    drawnAt = performance.now();
    const drawn = [...records.values()];
    if (!records.has(detailed)) detailed = drawn[0]?.name ?? null;
    which.replaceChildren(...drawn.map(({ name }) => h("option", { value: name }, name)));
    which.value = detailed ?? "";
    const chosen = records.get(detailed);
    charts.loss.draw(lossData(drawn, chosen));
    charts.rate.draw(curvesData(drawn, (record) => points(record.steps, "lr")));
    charts.norm.draw(curvesData(drawn, (record) => points(record.steps, "gradient_norm")));
    charts.gradients.draw(chosen ? layersOf(chosen, "gradients") : { rows: [], columns: [], values: [] });
    charts.weights.draw(chosen ? layersOf(chosen, "weights") : { rows: [], columns: [], values: [] });
    samples.show(chosen?.samples ?? []);
    showWords(drawn);
  }

  function showWords(drawn) {
    const entries = drawn.map((record) => [record.name, inWords(record), record.problem]);
    const text = JSON.stringify(entries);
    if (words.dataset.text === text) return;
    words.dataset.text = text;
    words.replaceChildren(...entries.map(([name, said, problem]) => h("li", {}, h("strong", {}, name), `: ${said.text}`,
      said.overfits && h("strong", { class: "bad" }, `; ${said.words}`), problem && h("p", { class: "bad" }, problem))));
  }

  const asked = new URLSearchParams(location.hash.split("?")[1] ?? "").get("runs");
  await refreshRuns();
  for (const name of asked?.split(",") ?? []) {
    if (runs.some((run) => run.name === name) && !records.has(name)) tick(name, true);
  }
  draw();
  await look();
  return () => {
    stopped.abort();
    clearTimeout(timer);
  };
}

function chartsOf() {
  return {
    loss: lineChart({
      title: "Loss", x: "step", y: "loss (nats a token)", height: 340,
      second: { label: "perplexity", of: Math.exp, back: Math.log },
    }),
    rate: lineChart({ title: "Learning rate", x: "step", y: "learning rate", height: 190 }),
    norm: lineChart({ title: "Gradient norm", x: "step", y: "norm before clipping", height: 190, logarithmic: true }),
    gradients: heatStrip({ title: "Gradient norm by layer" }),
    weights: smallMultiples({ title: "Weight norm by layer" }),
  };
}

// Of each run the losses on both texts; of the chosen one also that of each batch, the gap, and its changes.
function lossData(drawn, chosen) {
  const series = [], more = (loss) => `perplexity ${Math.exp(loss).toPrecision(4)}`;
  let band = null;
  drawn.forEach((record, number) => {
    const style = styleOf(number);
    const training = points(record.evaluations, "train_loss"), validation = points(record.evaluations, "val_loss");
    if (record === chosen) {
      const batches = { ...style, dash: "", width: 1, faint: true };
      series.unshift({ label: `${record.name}, each batch`, points: points(record.steps, "loss"), ...batches });
    }
    series.push({ label: `${record.name}, training`, points: training, ...style, width: 1.2 });
    const read = isOfPreferences(record) ? undefined : more;
    series.push({ label: `${record.name}, validation`, points: validation, ...style, width: 2.4, marks: true, more: read });
    if (record === chosen && training.length > 1) {
      const gap = validation.at(-1)[1] - training.at(-1)[1];
      band = { upper: validation, lower: training, text: `gap ${nats(gap)}` };
    }
  });
  const since = chosen ? inWords(chosen).since : null;
  const notes = (chosen?.changes ?? []).map((each, row) => ({
    x: each.step, row: row % 4, text: `${each.setting.replace("_", " ")} ${each.before} → ${each.after}`,
  }));
  if (since !== null && since !== undefined) notes.push({ x: since, row: 4, text: `overfitting since ${since}` });
  return { series, band, notes };
}

function curvesData(drawn, pointsOf) {
  const series = drawn.map((record, number) => ({
    label: record.name, points: pointsOf(record), ...styleOf(number), width: 1.6,
  }));
  return { series, band: null, notes: [] };
}

function runEntry(run, { ticked, style, isTraining, canResume, tick, resume }) {
  const { optimizer, lr, dropout, weight_decay: decay } = run.settings;
  const best = run.best_val_loss === null ? "" : `, best ${run.best_val_loss.toFixed(3)}`;
  return h("li", {},
    h("label", {}, h("input", { type: "checkbox", checked: ticked, onchange: (event) => tick(event.target.checked) }),
      h("span", { class: "run-swatch", style: ticked ? `background:${style.colour}` : "", "aria-hidden": "true" }),
      h("strong", {}, run.name)),
    canResume && h("button", { type: "button", "aria-label": `resume ${run.name}`, onclick: resume }, "Resume"),
    h("span", { class: "quiet wide" },
      isTraining ? "training now" : `step ${run.step} of ${run.settings.max_steps}${best}`),
    h("span", { class: "quiet wide" }, `${optimizer}, lr ${lr}, dropout ${dropout}, decay ${decay}`));
}

// Texts that the run wrote, the last first, and a temperature to write another one at.
function samplesPanel(write) {
  const output = h("output", { for: "temperature" }, "0.80");
  const slider = h("input", {
    id: "temperature", type: "range", min: 0, max: 2, step: 0.05, value: 0.8,
    oninput: () => (output.textContent = Number(slider.value).toFixed(2)),
  });
  const order = () => write(Number(slider.value));
  const now = h("button", { type: "button", disabled: true, onclick: order }, "Write a text now");
  const texts = h("div", {
    class: "sample-texts scroll", tabindex: 0, role: "region", "aria-label": "texts that the run wrote",
  });
  const element = h("div", {}, h("h3", {}, "Texts"),
    h("p", { class: "row" }, h("label", { for: "temperature" }, "temperature"), slider, output, now,
      h("span", { class: "quiet" }, "the random numbers are those of the step: only the temperature differs")), texts);
  let shown = "";
  return {
    element,
    enable(on) {
      now.disabled = !on;
    },
    show(samples) {
      const last = samples.slice(-MOST_SAMPLES).reverse();
      const text = JSON.stringify(last);
      if (text === shown) return;
      shown = text;
      texts.replaceChildren(...last.map((each) => h("figure", {},
        h("figcaption", { class: "quiet" }, `step ${each.step}, temperature ${each.temperature ?? 0.8}`),
        h("pre", {}, each.text))));
      if (!last.length) texts.replaceChildren(h("p", { class: "quiet" }, "none yet: they come with the evaluations"));
    },
  };
}
