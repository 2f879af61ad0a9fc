// What the browser keeps for a page. One from disk may be refused its storage.

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
