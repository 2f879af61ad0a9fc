// The settings of the sampler as a form, made from the list of minillm/web/sampler_controls.py.
//
//   settingsForm(controls, { values, leaveOut, onChange }) -> { element, values(), set(values) }
//
// values     name -> value, as SamplerSettings has them: numbers, names, null, [id, ...], { id: number, ... }. A bias
//            of minus infinity is the text "-inf". Only what differs from the default, and what the chosen order has.
// leaveOut   names of settings that have no control.
// onChange   (values) => ..., after every change, while a slider moves too.
import { h } from "./dom.js";

export function settingsForm(controls, { values = {}, leaveOut = [], onChange = () => {} } = {}) {
  const shown = controls.filter((control) => !leaveOut.includes(control.name));
  const settings = new Map(shown.map((control) => [control.name, setting(control, changed)]));

  function now() {
    const order = settings.get("order")?.read() ?? "minillm";
    const read = shown.filter((control) => control.orders.includes(order))
      .map((control) => [control.name, settings.get(control.name).read()]);
    const differs = ([name, value]) => JSON.stringify(value) !== JSON.stringify(settings.get(name).control.default);
    return Object.fromEntries(read.filter(differs));
  }

  function mark() {
    const order = settings.get("order")?.read() ?? "minillm";
    const given = now();
    for (const [name, one] of settings) {
      const missing = !one.control.orders.includes(order);
      one.element.classList.toggle("changed", name in given);
      one.element.classList.toggle("missing", missing);
      one.note.textContent = missing ? `not in ${order}` : one.problem();
      for (const input of one.inputs) input.disabled = missing;
    }
  }

  function changed() {
    mark();
    onChange(now());
  }

  function set(given) {
    for (const [name, one] of settings) one.write(given[name] ?? one.control.default);
    mark();
  }

  const groups = [...new Set(shown.map((control) => control.group))].map((name) => {
    const own = shown.filter((control) => control.group === name);
    return h("fieldset", {}, h("legend", {}, name), own.map((control) => settings.get(control.name).element));
  });
  const reset = h("button", { type: "button", onclick: () => { set({}); onChange(now()); } }, "Reset all settings");
  set(values);
  const element = h("form", { class: "settings", onsubmit: (event) => event.preventDefault() }, groups, reset);
  return { element, values: now, set };
}

// ------------------------------------------------------------------------------------------------------ one setting

// { control, element, inputs, note, read() -> value, write(value), problem() -> what is wrong with the text, or "" }
function setting(control, changed) {
  const kinds = { number: numberSetting, whole: numberSetting, choice: choiceSetting };
  const made = (kinds[control.kind] ?? textSetting)(control, changed);
  const note = h("p", { class: "quiet", id: `note-${control.name}`, role: "status" });
  for (const input of made.inputs) input.setAttribute("aria-describedby", note.id);
  const title = `${control.help} It is ${control.rule}.`;
  const label = h("label", { for: `set-${control.name}`, title }, control.name);
  const element = h("div", { class: "setting" }, label, made.inputs, note);
  return { problem: () => "", ...made, control, element, note };
}

function numberSetting(control, changed) {
  const { name, least, most, step } = control;
  const slider = h("input", { type: "range", min: least, max: most, step, "aria-label": `${name}, slider` });
  const field = h("input", { type: "number", id: `set-${name}`, step: "any", placeholder: "off" });
  slider.addEventListener("input", () => { field.value = slider.value; changed(); });
  field.addEventListener("input", () => { slider.value = field.value === "" ? control.off : field.value; changed(); });
  return {
    inputs: [slider, field],
    // An empty field is the default; so is the place of the slider that turns a setting of null off.
    read: () => {
      const value = field.value === "" ? control.default : Number(field.value);
      return control.default === null && value === control.off && name !== "penalty_window" ? null : value;
    },
    write: (value) => {
      field.value = value ?? "";
      slider.value = value ?? control.off;
    },
    problem: () => (field.validity.badInput ? "write a number" : ""),
  };
}

function choiceSetting(control, changed) {
  const options = control.choices.map((choice) => h("option", { value: choice }, choice || "as the order has it"));
  const select = h("select", { id: `set-${control.name}`, onchange: changed }, options);
  return { inputs: [select], read: () => select.value || null, write: (value) => { select.value = value ?? ""; } };
}

// ids: "12, 40"; biases and positions: "12:-1.5, 40:-inf".
function textSetting(control, changed) {
  const pairs = control.kind !== "ids";
  const example = { ids: "ids: 12, 40", biases: "id:number, such as 12:-1.5, 40:-inf", positions: "position:id" };
  const id = `set-${control.name}`;
  const field = h("input", { type: "text", id, placeholder: example[control.kind], oninput: changed });
  return {
    inputs: [field],
    read: () => readList(field.value, pairs) ?? control.default,
    write: (value) => {
      field.value = pairs ? Object.entries(value).map((pair) => pair.join(":")).join(", ") : value.join(", ");
    },
    problem: () => (readList(field.value, pairs) === null ? `write ${example[control.kind]}` : ""),
  };
}

// "12, 40" -> [12, 40]; with pairs "12:-1.5, 40:-inf" -> { 12: -1.5, 40: "-inf" }; null if it is neither.
export function readList(text, pairs) {
  const parts = text.split(/[\s,]+/).filter(Boolean);
  const form = pairs ? /^\d+:([-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf)$/ : /^\d+$/;
  if (!parts.every((part) => form.test(part))) return null;
  if (!pairs) return parts.map(Number);
  return Object.fromEntries(parts.map((part) => {
    const [id, number] = part.split(":");
    return [id, number === "-inf" ? number : Number(number)];
  }));
}
