// Light or dark: the system's setting until the reader chooses another, which the browser keeps for all pages.
import { remember, remembered } from "./browser.js";

// The theme of an earlier visit, and the button that changes it.
export function openTheme() {
  const theme = remembered("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", switchTheme);
}

export function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
}
