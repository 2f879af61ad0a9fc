// Light or dark: the system's setting until the reader chooses another, which the browser keeps.
const KEY = "minillm-theme";

function chosenTheme() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null; // a page opened from disk may have no storage
  }
}

// The theme of an earlier visit.
export function keptTheme() {
  const theme = chosenTheme();
  if (theme) document.documentElement.dataset.theme = theme;
}

export function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // it holds for this visit only
  }
}
