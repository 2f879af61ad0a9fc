// The form of a new run: the settings of minillm train. What is sent are the settings that differ from the preset's.
import { h } from "./look/dom.js";

const FINE_TUNE = "fine-tune";
const OF_CONTINUED = ["context_length", "dropout"]; // what a model that is continued from may change of its shape
const OVERFIT = {
  data: "python-docs", characters: 5000,
  settings: {
    tokenizer: "char", n_layer: 2, n_head: 4, d_model: 64, context_length: 32, batch_size: 16, max_steps: 600,
    optimizer: "adamw", lr: 3e-3, warmup_steps: 20, eval_interval: 25, eval_windows: 64, sample_tokens: 60,
  },
};
const COMPARE = {
  data: "python-docs", characters: 100000,
  settings: {
    tokenizer: "char", n_layer: 2, d_model: 64, batch_size: 16, max_steps: 400, lr: 3e-3, eval_interval: 40,
    eval_windows: 64, weight_decay: 0.1,
  },
};
const LABELS = {
  lr: "Learning rate", min_lr: "Last learning rate", max_steps: "Steps", eval_interval: "Evaluate every",
  n_layer: "Layers", n_head: "Heads", n_kv_head: "Key and value heads", d_model: "Width", d_ff: "Width of the MLP",
};
const EXAMPLES = {
  "overfitting: a short text": { ...OVERFIT, name: "overfitting" },
  "... with dropout 0.3": { ...OVERFIT, name: "dropout", settings: { ...OVERFIT.settings, dropout: 0.3 } },
  "AdamW": { ...COMPARE, name: "adamw", settings: { ...COMPARE.settings, optimizer: "adamw" } },
  "Adam, the decay as L2": { ...COMPARE, name: "adam", settings: { ...COMPARE.settings, optimizer: "adam" } },
};

// { element, refresh(runs) }; start(values) is called with what train/start takes.
export function runForm(described, start) {
  const presets = Object.fromEntries(described.presets.map((preset) => [preset.name, preset]));
  const controls = new Map();
  let runs = [];
  const preset = select("preset", described.presets.map(({ name }) => name), () => fillIn());
  const data = select("text", ["", ...described.corpora, ...described.texts], () => fillIn());
  const characters = h("input", { id: "run-characters", type: "number", min: 1, placeholder: "all of it" });
  const name = textInput("run-name", { maxlength: 80, placeholder: "PRESET-N" });
  const init = select("init", [""], () => {
    preset.value = init.value ? FINE_TUNE : "default";
    fillIn();
  });
  const device = select("device", described.devices);
  const example = select("example", ["", ...Object.keys(EXAMPLES)], () => takeExample());
  const summary = h("p", { class: "quiet wide" });

  for (const field of described.fields) controls.set(field.name, settingControl(field));
  controls.get("optimizer").input.addEventListener("change", () => fillIn());
  const open = described.fields.filter((field) => field.open).map((field) => controls.get(field.name).row);
  const panels = [...new Set(described.fields.filter((field) => !field.open).map((field) => field.panel))];
  const more = panels.map((panel) => h("fieldset", {}, h("legend", {}, panel),
    described.fields.filter((each) => !each.open && each.panel === panel).map((each) => controls.get(each.name).row)));
  const element = h("form", { class: "run-form", novalidate: true, onsubmit: submit },
    row("example", "Example", example, "Fills in the form: run two of them, and lay them over one another."),
    row("preset", "Preset", preset, "A set of settings; what is changed below differs from it."), summary,
    row("text", "Text", data, "Corpora, and text files among the run folders. Shakespeare is downloaded once."),
    row("characters", "Characters", characters, "Learn from the first of them only: a short text is soon overfitted."),
    row("name", "Name", name, "Of the run folder."),
    open,
    h("details", { class: "more" }, h("summary", {}, "more settings"),
      h("div", { class: "fields" }, row("init", "Continue from", init, "The model of another run."),
        row("device", "Device", device, "Where it is computed."), more)),
    h("p", { class: "row wide" },
      h("button", { class: "primary", type: "submit", value: "go" }, "Start"),
      h("button", { type: "submit", value: "paused" }, "Start paused")));

  function fillIn() {
    const optimizer = controls.get("optimizer"), of = presets[preset.value];
    const values = { ...of.values, ...(optimizer.changed ? of.with_optimizer[optimizer.input.value] : {}) };
    summary.textContent = presets[preset.value].summary;
    data.options[0].textContent = `${presets[preset.value].data} (preset)`;
    for (const [each, control] of controls) {
      control.preset(init.value ? undefined : values[each]);
      control.input.disabled = Boolean(init.value) && control.isShape && !OF_CONTINUED.includes(each);
    }
  }

  function takeExample() {
    const chosen = EXAMPLES[example.value];
    for (const control of controls.values()) control.changed = false;
    init.value = "";
    preset.value = "default";
    data.value = chosen?.data ?? "";
    characters.value = chosen?.characters ?? "";
    name.value = chosen ? freeName(chosen.name) : "";
    fillIn();
    for (const [each, value] of Object.entries(chosen?.settings ?? {})) controls.get(each).set(value);
    fillIn(); // what becomes other with the example's optimizer
  }

  function freeName(base) {
    let number = 1;
    while (runs.includes(`${base}-${number}`)) number += 1;
    return `${base}-${number}`;
  }

  async function submit(event) {
    event.preventDefault();
    const settings = {}, paused = event.submitter?.value === "paused";
    for (const [each, control] of controls) {
      const isGiven = control.changed && !control.input.disabled && control.input.value !== "";
      if (isGiven) settings[each] = control.value();
    }
    const values = { settings, device: device.value, paused };
    if (!(init.value && preset.value === FINE_TUNE)) values.preset = preset.value;
    if (data.value || characters.value) values.data = data.value || presets[preset.value].data;
    if (characters.value) values.characters = Number(characters.value);
    if (name.value) values.name = name.value;
    if (init.value) values.init = init.value;
    await start(values);
    name.value = example.value ? freeName(EXAMPLES[example.value].name) : "";
  }

  fillIn();
  return {
    element,
    // The runs that there are: models to continue from, and names that are taken.
    refresh(names) {
      runs = names;
      const chosen = init.value;
      const options = ["", ...names].map((each) => h("option", { value: each }, each || "nothing: a new model"));
      init.replaceChildren(...options);
      init.value = names.includes(chosen) ? chosen : "";
      if (example.value && runs.includes(name.value)) name.value = freeName(EXAMPLES[example.value].name);
    },
  };
}

function select(id, values, onchange) {
  const element = h("select", { id: `run-${id}` }, values.map((value) => h("option", { value }, value || "none")));
  if (onchange) element.addEventListener("change", onchange);
  return element;
}

// A labelled control; its help is a title for the pointer and a description for others.
function row(id, label, input, help) {
  input.setAttribute("aria-describedby", `help-${id}`);
  return h("div", { class: "field" }, h("label", { for: `run-${id}`, title: help }, label), input,
    h("span", { id: `help-${id}`, class: "sr-only" }, help));
}

// The control of one setting: { row, input, changed, preset(value), set(value), value() }.
function settingControl(field) {
  const input = inputOf(field);
  const control = {
    input, changed: false, isShape: field.is_shape,
    row: row(field.name, LABELS[field.name] ?? plainly(field.name), input, `${field.name}: ${field.help}`),
    preset(value) {
      if (!control.changed) show(value);
    },
    set(value) {
      control.changed = true;
      show(value);
    },
    value() {
      if (field.kind === "bool") return input.value === "true";
      if (field.kind === "texts") return input.value.split(/\s+/).filter(Boolean);
      if (field.kind === "str") return input.value;
      return Number(input.value);
    },
  };
  function show(value) {
    input.value = Array.isArray(value) ? value.join(" ") : value ?? "";
  }
  input.addEventListener("change", () => {
    control.changed = true;
  });
  return control;
}

// weight_decay -> Weight decay
function plainly(name) {
  return name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

function inputOf(field) {
  const id = `run-${field.name}`;
  const choices = field.kind === "bool" ? ["true", "false"] : field.choices;
  if (choices) return h("select", { id }, choices.map((choice) => h("option", { value: choice }, choice)));
  const step = { int: 1, float: "any" }[field.kind];
  if (step) return h("input", { id, type: "number", step, placeholder: "not given" });
  return textInput(id, { placeholder: "not given" });
}

function textInput(id, more) {
  return h("input", { id, type: "text", autocomplete: "off", spellcheck: "false", ...more });
}
