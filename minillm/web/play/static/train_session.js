// The bar of the run that trains now: its orders, its numbers, and the settings that can change while it runs.
import { h, short } from "./look/dom.js";

const OVER = ["finished", "stopped", "early stop", "failed"];
const CHANGEABLE = { lr: "learning rate (highest)", dropout: "dropout", weight_decay: "weight decay" };

export function isOver(session) {
  return !session || OVER.includes(session.state);
}

// { element, show(session) }; ask(path, body) sends an order and shows the session that it answers.
export function sessionBar(ask) {
  const state = h("p", { class: "session-state", role: "status" });
  const bar = h("progress", { max: 1, value: 0, "aria-label": "steps done" });
  const numbers = h("dl", { class: "session-numbers" });
  const problem = h("p", { class: "bad", id: "session-problem" });
  const messages = h("ul", {});
  const orders = {
    pause: button("Pause", () => ask("train/order", { order: session.state === "paused" ? "continue" : "pause" })),
    step: button("One step", () => ask("train/order", { order: "step" })),
    stop: button("Stop and save", () => ask("train/order", { order: "stop" })),
  };
  const inputs = Object.fromEntries(Object.keys(CHANGEABLE).map((name) => [name, changeInput(name)]));
  const changing = h("form", { class: "row session-changes", novalidate: true, onsubmit: change },
    Object.entries(CHANGEABLE).map(([name, label]) => h("label", {}, label, inputs[name])),
    button("Change", null, "submit"));
  const commands = h("div", { class: "session-commands" });
  const element = h("section", { class: "panel session", "aria-label": "the run that trains" },
    h("div", { class: "row" }, state, Object.values(orders)), bar, numbers, changing, problem,
    h("div", { role: "status" }, messages), commands);
  let session = null, commandsOf = "";

  function changeInput(name) {
    const input = h("input", { type: "number", step: "any", name, oninput: () => (input.dataset.edited = "yes") });
    return input;
  }

  async function change(event) {
    event.preventDefault();
    const changes = {};
    for (const [name, input] of Object.entries(inputs)) {
      const value = Number(input.value);
      if (input.dataset.edited && input.value !== "" && value !== session.settings[name]) changes[name] = value;
    }
    for (const input of Object.values(inputs)) delete input.dataset.edited;
    if (Object.keys(changes).length) await ask("train/change", changes);
  }

  function show(next) {
    session = next;
    element.hidden = !session;
    if (!session) return;
    const over = isOver(session), paused = session.state === "paused";
    const where = session.run ?? "a new run";
    setText(state, `${where}: ${session.state === "preparing" ? "reading the text" : session.state}`);
    bar.max = session.max_steps ?? 1;
    bar.value = session.step ?? 0;
    setText(orders.pause, paused ? "Continue" : "Pause");
    orders.pause.classList.toggle("primary", paused);
    orders.pause.disabled = orders.step.disabled = orders.stop.disabled = over;
    changing.hidden = over || !session.settings;
    for (const [name, input] of Object.entries(inputs)) {
      if (session.settings && !input.dataset.edited && document.activeElement !== input) {
        input.value = session.settings[name];
      }
    }
    const shown = numbersOf(session).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
    numbers.replaceChildren(...shown);
    setText(problem, session.problem);
    if (messages.childElementCount !== session.messages.length) {
      messages.replaceChildren(...session.messages.map((each) => h("li", {}, each)));
    }
    showCommands(over && session.state !== "failed");
  }

  // What to type in a terminal: it stays as it is while it is looked at.
  function showCommands(visible) {
    const wanted = visible ? `${session.run} ${session.state}` : "";
    if (wanted === commandsOf) return;
    commandsOf = wanted;
    if (!visible) return commands.replaceChildren();
    const { play, generate } = session.commands;
    const texts = [["let it write on this page", play], ["in the terminal", generate]];
    if (session.state === "stopped") texts.unshift(["go on", session.commands.resume]);
    commands.replaceChildren(...texts.map(([what, text]) => h("p", { class: "row" },
      h("span", { class: "quiet" }, `${what}:`), h("code", {}, text), copyButton(text))));
  }
  return { element, show };
}

function numbersOf(session) {
  if (session.step === undefined) return [];
  return [
    ["step", `${session.step} of ${session.max_steps}`],
    ["loss of the batch", short(session.loss)],
    ["learning rate", short(session.lr)],
    ["gradient norm", short(session.gradient_norm)],
    ["tokens a second", session.tokens_per_second?.toLocaleString("en") ?? ""],
    ["weights", session.weights.toLocaleString("en")],
    ["learns from", `${session.train_tokens.toLocaleString("en")} tokens`],
    ["validates on", `${session.validation_tokens.toLocaleString("en")} tokens`],
  ];
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function button(text, onclick, type = "button") {
  return h("button", onclick ? { type, onclick } : { type }, text);
}

function copyButton(text) {
  const copy = button("Copy", async () => {
    await navigator.clipboard.writeText(text);
    copy.textContent = "Copied";
  });
  copy.setAttribute("aria-label", `copy ${text}`);
  return copy;
}
