// The page of an operation: what is tied lights up, symbols light in every column, numbers stand beside their lines.
import { h } from "./dom.js";
import { colour, follow, light, tiedTo } from "./code.js";
import { openTheme, switchTheme } from "./theme.js";

const data = JSON.parse(document.getElementById("data").textContent);
const sheet = document.getElementById("sheet");
const partnerBar = document.getElementById("partner");
const said = document.getElementById("said");
const keys = document.getElementById("keys");
const wide = matchMedia("(min-width: 1000px)");
const symbols = new Map(); // a symbol -> the elements that spell it
let held = null; // the symbol that a click holds
let isPinned = false; // whether a statement is

// ------------------------------------------------------------------------------------------------------ symbols

function collectSymbols() {
  const add = (symbol, element) => {
    if (!symbols.has(symbol)) symbols.set(symbol, []);
    symbols.get(symbol).push(element);
    element.dataset.symbol = symbol;
  };
  for (const element of sheet.querySelectorAll(".derivation var")) add(data.symbols.derivation[element.textContent], element);
  for (const element of sheet.querySelectorAll(".code .name")) {
    const spelled = element.closest(".kernels") ? data.symbols.kernel : data.symbols.code;
    if (Object.hasOwn(spelled, element.textContent)) add(spelled[element.textContent], element);
  }
  for (const button of document.querySelectorAll(".symbols button")) {
    symbols.get(button.dataset.symbol)?.push(button);
    button.addEventListener("click", () => hold(button.dataset.symbol));
    button.addEventListener("focus", () => lightSymbol(button.dataset.symbol));
    button.addEventListener("blur", () => lightSymbol(held));
  }
  document.addEventListener("pointerover", (event) => lightSymbol(event.target.dataset?.symbol ?? held));
}

function lightSymbol(symbol) {
  for (const element of document.querySelectorAll(".same")) element.classList.remove("same");
  for (const element of symbols.get(symbol) ?? []) element.classList.add("same");
}

function hold(symbol) {
  held = held === symbol ? null : symbol;
  for (const button of document.querySelectorAll(".symbols button")) {
    button.setAttribute("aria-pressed", String(button.dataset.symbol === held));
  }
  lightSymbol(held);
}

// ----------------------------------------------------------------------------------------------------- partners

const placed = (id) => sheet.querySelector(`.statement[data-id="${id}"]`);
const sideOf = (statement) => statement.closest(".forward, .backward, .kernels").classList.contains("kernels")
  ? "cuda" : statement.closest(".column").classList[1];
const lineOf = (statement) => statement.querySelector(".line").dataset.n;

// The formulas that define what a statement computes.
const formulasOf = (statement) => {
  const computed = new Set((statement?.dataset.computes ?? "").split(" "));
  return [...sheet.querySelectorAll("[data-defines]")].filter((formula) => computed.has(formula.dataset.defines));
};

function onPoint(statement, pinned) {
  isPinned = pinned;
  const formulas = formulasOf(statement);
  for (const formula of sheet.querySelectorAll("[data-defines]")) formula.classList.toggle("lit", formulas.includes(formula));
  const others = statement ? tiedTo(sheet, statement).map(placed).filter((other) => other && other !== statement) : [];
  said.textContent = others.length ? `tied to ${others.map((other) => `${sideOf(other)} line ${lineOf(other)}`).join(", ")}` : "";
  const byKeyboard = statement?.matches(":focus-visible");
  showPartners(pinned || byKeyboard ? others : []);
  if (pinned || byKeyboard) reveal(statement, [...others, ...formulas]);
}

// Pointing at a formula lights it, and the statements that compute what it defines.
function pointAtFormula(event) {
  const formula = event.target.closest?.("[data-defines]");
  if (!formula || isPinned) return;
  const computing = [...sheet.querySelectorAll(".statement[data-computes]")].filter((statement) =>
    statement.dataset.computes.split(" ").includes(formula.dataset.defines),
  );
  light(sheet, computing.map((statement) => statement.dataset.id));
  formula.classList.add("lit");
}

// Scrolls the first partner of each other column into view, and the statement itself last.
function reveal(statement, others) {
  const columns = new Set([statement.closest(".column, .kernels, .derivation")]);
  for (const other of others) {
    const column = other.closest(".column, .kernels, .derivation");
    if (columns.has(column) || !other.checkVisibility()) continue;
    columns.add(column);
    other.scrollIntoView({ block: "nearest" });
  }
  statement.scrollIntoView({ block: "nearest" });
}

// On a narrow screen the partner is in another column: its code is shown below, and a button that goes there.
function showPartners(others) {
  partnerBar.hidden = wide.matches || others.length === 0;
  partnerBar.replaceChildren(
    ...others.slice(0, 3).map((other) =>
      h(
        "button",
        { type: "button", onclick: () => goTo(other) },
        h("span", { class: "quiet" }, `${sideOf(other)} ${lineOf(other)} `),
        [...other.querySelectorAll(".line")].map((line) => line.textContent.trim()).join(" "),
      ),
    ),
  );
}

function goTo(statement) {
  choose(sideOf(statement));
  statement.closest("details")?.setAttribute("open", "");
  statement.focus();
  statement.scrollIntoView({ block: "center" });
}

// ------------------------------------------------------------------------------------------------------ columns

const toggles = [...document.querySelectorAll("#columns button")];
const shown = new Set(toggles.map((button) => button.dataset.column));
let chosen = "forward";

// A click on a wide screen hides a column, or shows it again; on a narrow one it is the column to be shown.
function choose(column) {
  if (!wide.matches) chosen = column;
  else if (shown.has(column) && shown.size > 1) shown.delete(column);
  else shown.add(column);
  showColumns();
}

function showColumns() {
  for (const button of toggles) {
    const visible = wide.matches ? shown.has(button.dataset.column) : button.dataset.column === chosen;
    button.setAttribute("aria-pressed", String(visible));
    sheet.classList.toggle(`no-${button.dataset.column}`, !visible);
  }
  if (wide.matches) showPartners([]);
}

// --------------------------------------------------------------------------------------------- buttons and keys

function press(name) {
  const button = document.getElementById(name);
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  sheet.classList.toggle(name, pressed);
}

const actions = {
  n: () => press("numbers"),
  o: () => press("order"),
  t: switchTheme,
  "?": () => keys.showModal(),
  "[": () => data.previous && location.assign(`${data.previous}.html`),
  "]": () => data.next && location.assign(`${data.next}.html`),
  j: () => sheet.querySelector(".code .statement[tabindex='0']")?.focus(),
};
toggles.forEach((button, index) => (actions[index + 1] = () => choose(button.dataset.column)));

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || keys.open) return;
  if (event.key === "Escape" && held) hold(held);
  else if (Object.hasOwn(actions, event.key)) {
    actions[event.key]();
    event.preventDefault();
  }
});
for (const name of ["numbers", "order"]) document.getElementById(name).addEventListener("click", () => press(name));
for (const button of toggles) button.addEventListener("click", () => choose(button.dataset.column));
document.getElementById("help").addEventListener("click", () => keys.showModal());
wide.addEventListener("change", showColumns);

// What is seen at once needs no colours and no ties: they come after the first picture.
function begin() {
  for (const column of sheet.querySelectorAll(".code")) {
    const spelled = column.closest(".kernels") ? data.symbols.kernel : data.symbols.code;
    colour(column, column.dataset.language, new Set(Object.keys(spelled)));
  }
  collectSymbols();
  follow(sheet, onPoint);
  document.addEventListener("pointerover", pointAtFormula);
  if (placed(location.hash.slice(1))) goTo(placed(location.hash.slice(1)));
  document.documentElement.dataset.ready = "true";
}

openTheme();
showColumns();
requestAnimationFrame(() => setTimeout(begin));
