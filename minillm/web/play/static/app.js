// The frame of the page: the row of views, messages, light and dark. A view is a module with
// show(root, api, say) -> undefined or a function that ends it.
import { h } from "./look/dom.js";
import { openTheme } from "./look/theme.js";
import { post, stream, ServerError, GONE } from "./api.js";

const VIEWS = { write: "Write", backward: "Backward", train: "Train", kernel: "Kernel", tokens: "Tokens" };
const api = { post, stream };
const view = document.getElementById("view");
const message = document.getElementById("message");
let end = null;    // ends the view that is shown
let opened = 0;    // views so far: one that is left before it has loaded ends as soon as it has

// Shows what went wrong above the view; say("") takes it away.
function say(error) {
  if (error && error.name === "AbortError") return;
  message.textContent = error instanceof Error ? error.message : error;
}

function complain(event) {
  const error = event.reason ?? event.error;
  say(error);
  if (error instanceof ServerError || error?.name === "AbortError") event.preventDefault();
}

async function open() {
  opened += 1;
  const number = opened;
  const name = location.hash.slice(1).split("?")[0];
  const chosen = name in VIEWS ? name : "write";
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  end?.();
  end = null;
  say("");
  view.replaceChildren();
  document.title = `${VIEWS[chosen]} - minillm play`;
  try {
    const module = await viewModule(chosen);
    if (number !== opened) return;
    const root = h("div", { id: chosen });
    view.replaceChildren(root);
    const endIt = (await module.show(root, api, say)) ?? null;
    if (number === opened) end = endIt;
    else endIt?.();
  } catch (error) {
    if (number === opened) say(error);
    if (!(error instanceof ServerError)) throw error;
  }
}

async function viewModule(name) {
  try {
    return await import(`./${name}.js`);
  } catch (error) {
    if (error instanceof SyntaxError) throw error;
    throw new ServerError(GONE);
  }
}

addEventListener("unhandledrejection", complain);
addEventListener("error", complain);
addEventListener("hashchange", open);
openTheme();
document.getElementById("views").append(...Object.entries(VIEWS).map(([name, title]) => h("a", { href: `#${name}` }, title)));
open();
post("about").then((about) => {
  document.getElementById("model").textContent =
    `${about.model}: ${about.weights.toLocaleString("en")} weights, context ${about.context}, vocabulary ${about.vocabulary}`;
});
