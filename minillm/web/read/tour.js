// The tour: one stop after another opens with the right answer to the question before it. Answers given are remembered.
import { remember, remembered } from "./browser.js";
import { openTheme } from "./theme.js";

const stops = JSON.parse(document.getElementById("data").textContent).stops;
const items = [...document.querySelectorAll(".stop")];
const progress = document.getElementById("progress");
const all = document.getElementById("all");
const answered = new Set((remembered("tour") ?? "").split(" ").filter((name) => stops.some((stop) => stop.name === name)));

function isOpen(at) {
  return all.getAttribute("aria-pressed") === "true" || stops.slice(0, at).every((stop) => answered.has(stop.name));
}

function show() {
  items.forEach((item, at) => {
    item.querySelector(".closed").hidden = isOpen(at);
    item.querySelector(".inside").hidden = !isOpen(at);
    item.classList.toggle("done", answered.has(stops[at].name));
    item.querySelector(".mark").textContent = answered.has(stops[at].name) ? "answered" : "";
  });
  progress.textContent = `${answered.size} of ${stops.length} answered`;
}

// What is said of an answer: [whether it is right, text].
function judge(stop, answer) {
  if (answer === "" || answer === null) return [false, "Choose an answer first."];
  if (stop.replies) return [Number(answer) === stop.right, stop.replies[Number(answer)]];
  const number = Number(answer.replace(",", "."));
  if (Number.isNaN(number)) return [false, "That is no number: write it like 0.25."];
  const near = (value) => Math.abs(number - value) <= 0.01 * Math.abs(value) + 1e-9;
  if (near(stop.number)) return [true, stop.reply];
  return [false, stop.slips.find(([value]) => near(value))?.[1] ?? "No. The hint has the way to it."];
}

function check(event, at) {
  event.preventDefault();
  const [right, text] = judge(stops[at], new FormData(event.target).get("answer"));
  const reply = event.target.querySelector(".reply");
  reply.className = `reply ${right ? "good" : "bad"}`;
  reply.textContent = `${right ? "✓" : "✗"} ${text}`;
  if (!right) return;
  answered.add(stops[at].name);
  remember("tour", [...answered].join(" "));
  show();
}

items.forEach((item, at) => item.querySelector("form").addEventListener("submit", (event) => check(event, at)));
all.addEventListener("click", () => {
  all.setAttribute("aria-pressed", String(all.getAttribute("aria-pressed") !== "true"));
  show();
});
document.getElementById("again").addEventListener("click", () => {
  answered.clear();
  remember("tour", "");
  for (const form of document.querySelectorAll(".stop form")) form.reset();
  for (const reply of document.querySelectorAll(".reply")) reply.textContent = "";
  show();
});
openTheme();
show();
document.documentElement.dataset.ready = "true";
