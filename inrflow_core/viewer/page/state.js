// What the page shows, and its form in the fragment of the address, by which it is shared.

export const MOST_POINTS = 128000;
export const LEAST_POINTS = 256;
const STEPS_OF_SLIDER = 90;

/** What is not in the fragment: seed 0 of the first run by its preset. */
export const DEFAULTS = {
  seed: "0", label: "", guidance: "", interval: "", guide: "", sampler: "", steps: "", text: "", sequence: "", tint: "spectrum", samples: "", "grid-side": "", "view-side": "", "clip-side": "", frames: "", rate: "", image: "", camera: "", points: 2048, dot: 55, compare: "auto",
  grid: false, strip: false, panels: [{ run: 0, step: "", ema: "" }], zoom: null, pose: null,
};

/** Panels that a page has at most. */
export const MOST_PANELS = 16;

const NUMBERS = ["points", "dot"];
const FLAGS = ["grid", "strip"];
const TEXTS = ["seed", "label", "guidance", "interval", "guide", "sampler", "steps", "text", "sequence", "tint", "samples", "compare", "grid-side", "view-side", "clip-side", "frames", "rate", "image", "camera"];

/** What `compare` shows beside an image: of an input image that is encoded the truth, unless it says otherwise. */
export function beside(compare, isEncoded) {
  const kinds = { bicubic: ["bicubic"], pixels: ["pixels"], truth: ["truth"], both: ["bicubic", "truth"] };
  const shown = kinds[compare === "auto" && isEncoded ? "both" : compare] ?? [];
  return isEncoded ? shown : shown.filter((kind) => kind !== "truth");
}

const COMPARED = 5; // samples whose deviation is shown, where the page does not say another number

/** Samples of a protein that are shown together. */
export function numSamples({ samples, tint }) {
  return Number(samples) || (tint === "deviation" ? COMPARED : 1);
}

/** What distinguishes a run from the page's others: its name, with a number where it has namesakes. */
export function titleOf(run, runs) {
  const namesakes = runs.filter(({ name }) => name === run.name);
  return namesakes.length > 1 ? `${run.name} (${namesakes.indexOf(run) + 1})` : run.name;
}

/** The fragment of a state: only what differs from the defaults, which are all runs side by side. */
export function toFragment(state, info) {
  const parts = new URLSearchParams();
  const written = { ...state, sequence: state.sequence.replace(/\s/g, "") };
  const usual = { ...DEFAULTS, image: info.image ?? "" };
  for (const name of [...TEXTS, ...NUMBERS]) if (written[name] !== usual[name]) parts.set(name, written[name]);
  for (const name of FLAGS) if (state[name]) parts.set(name, "1");
  const panels = state.panels.map(({ run, step, ema }) => [run, step, ema].join(",").replace(/,+$/, "")).join(";");
  if (panels !== info.runs.map((_, run) => run).join(";")) parts.set("panels", panels);
  if (state.zoom) parts.set("zoom", [state.zoom.x, state.zoom.y, state.zoom.width].map((n) => +n.toPrecision(9)).join(","));
  if (state.pose) parts.set("pose", state.pose.map((n) => +n.toFixed(4)).join(","));
  return parts.toString();
}

/** The state of a fragment; what cannot be is left at its default. */
export function fromFragment(fragment, info) {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const state = { ...structuredClone(DEFAULTS), image: info.image ?? "" };
  for (const name of TEXTS) if (parts.has(name)) state[name] = parts.get(name);
  for (const name of NUMBERS) if (Number(parts.get(name)) > 0) state[name] = Number(parts.get(name));
  for (const name of FLAGS) state[name] = parts.get(name) === "1";
  if (!/^\d{1,19}$/.test(state.seed)) state.seed = "0";
  state.points = Math.min(MOST_POINTS, Math.max(LEAST_POINTS, Math.round(state.points)));
  const numbers = (name) => (parts.get(name) || "").split(",").map(Number);
  const [zoom, pose] = [numbers("zoom"), numbers("pose")];
  if (zoom.length === 3 && zoom.every(Number.isFinite) && zoom[2] > 0) state.zoom = { x: zoom[0], y: zoom[1], width: zoom[2] };
  if (pose.length === 3 && pose.every(Number.isFinite) && pose.some((n) => n)) state.pose = pose;
  state.panels = parts.has("panels") ? panelsOf(parts.get("panels"), info) : info.runs.map((_, run) => ({ run, step: "", ema: "" }));
  return state;
}

function panelsOf(text, info) {
  const panels = text.split(";").map((part) => part.split(","));
  const known = panels.filter(([run]) => /^\d+$/.test(run) && Number(run) < info.runs.length);
  const rows = known.map(([run, step = "", ema = ""]) => ({ run: Number(run), step, ema }));
  return rows.length ? rows.slice(0, MOST_PANELS) : structuredClone(DEFAULTS.panels);
}

/** Points at a position of the slider, which is logarithmic. */
export function pointsAt(position) {
  return Math.round(LEAST_POINTS * (MOST_POINTS / LEAST_POINTS) ** (position / STEPS_OF_SLIDER));
}

/** The position of the slider for a number of points. */
export function positionOf(points) {
  return Math.round(STEPS_OF_SLIDER * Math.log(points / LEAST_POINTS) / Math.log(MOST_POINTS / LEAST_POINTS));
}
