// What is looked at, and the link that says so: #sample=3&pixel=4,2&t=.4&model=full&view=mosaic

export const VIEWS = ["picture", "mosaic", "difference"];

/** A number of a link within bounds; the default where it is none. */
function within(text, low, high, fallback) {
  const value = Number.parseInt(text, 10);
  return Number.isFinite(value) ? Math.min(high, Math.max(low, value)) : fallback;
}

/** Number of the level nearest to a time. */
export function nearest(times, t) {
  let best = 0;
  for (let i = 1; i < times.length; i++) if (Math.abs(times[i] - t) < Math.abs(times[best] - t)) best = i;
  return best;
}

/** What a link asks for; nonsense in it is passed over. */
export function parse(hash, { shape, models, reference, sample, pixel }) {
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  const [, height, width] = shape;
  const [y, x] = (asked.get("pixel") ?? "").split(",");
  const named = (key, fallback) => {
    const found = models.findIndex((model) => model.name === asked.get(key));
    return found < 0 ? fallback : found;
  };
  const first = models.findIndex((model) => model.machine === "equivariant_local" && model.own);
  const model = named("model", Math.max(0, first));
  return {
    sample: within(asked.get("sample"), 0, 999999, sample),
    pixel: [within(y, 0, height - 1, pixel[0]), within(x, 0, width - 1, pixel[1])],
    t: Number.isFinite(Number.parseFloat(asked.get("t"))) ? Number.parseFloat(asked.get("t")) : 0,
    model,
    versus: named("versus", reference),
    view: VIEWS.includes(asked.get("view")) ? asked.get("view") : "picture",
  };
}

/** The link of what is looked at. */
export function link(state, models) {
  const t = String(Number(state.t.toFixed(4))).replace(/^0\./, ".");
  const parts = [
    `sample=${state.sample}`,
    `pixel=${state.pixel.join(",")}`,
    `t=${t}`,
    `model=${encodeURIComponent(models[state.model].name)}`,
    `versus=${encodeURIComponent(models[state.versus].name)}`,
    `view=${state.view}`,
  ];
  return `#${parts.join("&")}`;
}
