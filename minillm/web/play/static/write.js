// The view write.
import { h } from "./look/dom.js";

export function show(root, api) {
  root.append(h("p", {}, "not written yet"));
}
