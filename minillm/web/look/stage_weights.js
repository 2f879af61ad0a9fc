// Logits -> probabilities, in float64. The twin of minillm/sampler/probability.py.

// shifted: l - max(l); w: its exponential; total: their sum. All in float64.
export function weights(logits) {
  const largest = largestOf(logits);
  const shifted = Float64Array.from(logits, (x) => x - largest);
  const w = shifted.map(Math.exp);
  return { shifted, w, total: sum(w) };
}

export function expectedOf(shifted, w, total) {
  return sum(w.map((weight, id) => (weight ? weight * shifted[id] : 0))) / total;
}

export function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

export function largestOf(logits) {
  return logits.reduce((largest, x) => (x > largest || x !== x ? x : largest), -Infinity);
}
