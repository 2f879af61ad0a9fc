// What both kinds of page need of the browser: its storage, which a page from disk may be refused, and light and dark.

export function remembered(name) {
  try {
    return localStorage.getItem(`minillm.${name}`);
  } catch {
    return null;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`minillm.${name}`, value);
  } catch {
    // The page works without: it only forgets.
  }
}

export function switchTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  remember("theme", document.documentElement.dataset.theme);
}

export function openTheme() {
  const theme = remembered("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  document.getElementById("theme").addEventListener("click", switchTheme);
}
