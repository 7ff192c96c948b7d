// The server's addresses: each is a function (a run with its weights, a seed, a sampler) and where it is evaluated.

/** Whether a run shows the function that it encodes the input image as, and no new sample. */
export function encodes(state, run) {
  return Boolean(state.image) && run.image === "encode";
}

/** The parameters of the function that a panel shows, of one of the page's runs; what is empty is the preset's. */
export function functionOf(state, panel, runs, changes = {}) {
  const run = runs[panel.run];
  const { seed, label, guidance, sampler, steps } = state;
  const own = { run: panel.run, step: panel.step, ema: panel.ema, label, steps };
  if (!encodes(state, run)) {
    Object.assign(own, { seed, guidance, sampler });
    if (run.interval) own.interval = state.interval.replace(/\s/g, "");
    if (run.interval && runs[state.guide.split(",")[0]]?.domain === run.domain) own.guide = state.guide;
  }
  if (run.image) own.image = state.image;
  if (own.image && takesCamera(run)) own.camera = state.camera;
  const all = { ...own, ...changes };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== "" && value !== null && value !== undefined));
}

/** Whether what a run does with an image depends on the camera that took it. */
export function takesCamera(run) {
  return run.image === "condition" || (run.image === "encode" && run.view === "scene");
}

/** An address of the server, relative to the page, which has the token. */
export function address(name, parameters) {
  return `api/${name}?${new URLSearchParams(parameters)}`;
}

let isLeft = false;
window.addEventListener("pagehide", () => { isLeft = true; });
window.addEventListener("pageshow", () => { isLeft = false; });

/** An answer; raises an Error with the server's own words, and an AbortError where the signal aborts or the page is left. */
export async function request(name, parameters, signal) {
  try {
    return await answered(await fetch(address(name, parameters), { signal }));
  } catch (error) {
    throw isLeft ? new DOMException("the page is left", "AbortError") : error;
  }
}

const MOST_SLOW = 2; // one under way and the next: a browser has six connections to a server, and the others stay free
let numSlow = 0;
const waiting = [];

/** An answer that may wait for a recording, once it is its turn; `begin` is called then. */
export async function slowRequest(name, parameters, signal, begin) {
  await turn(signal);
  try {
    begin?.();
    return await request(name, parameters, signal);
  } finally {
    numSlow -= 1;
    waiting.shift()?.();
  }
}

/** Wait until fewer than `MOST_SLOW` slow requests are under way; rejects when the signal aborts. */
async function turn(signal) {
  signal?.throwIfAborted();
  if (numSlow >= MOST_SLOW) {
    await new Promise((resolve, reject) => {
      const leave = () => { waiting.splice(waiting.indexOf(enter), 1); reject(signal.reason); };
      const enter = () => { signal?.removeEventListener("abort", leave); numSlow += 1; resolve(); };
      waiting.push(enter);
      signal?.addEventListener("abort", leave, { once: true });
    });
  } else numSlow += 1;
}

/** The answer to a file that is sent; raises as `request`. */
export async function send(name, file) {
  return answered(await fetch(address(name, {}), { method: "POST", body: file }));
}

async function answered(response) {
  if (response.ok) return response;
  const text = await response.text();
  let words = `the server answered ${response.status}`;
  try {
    const { error, hint } = JSON.parse(text);
    words = hint ? `${error}: ${hint}` : error;
  } catch { /* not JSON: the status says it */ }
  throw new Error(words);
}

/** Milliseconds of work that an answer took, beside its time in the queue. */
export function milliseconds(response) {
  const match = /work;dur=([\d.]+)/.exec(response.headers.get("server-timing") || "");
  return match ? Number(match[1]) : null;
}

/** Milliseconds as text: `180 ms`, `2.4 s`. */
export function duration(number) {
  return number < 1000 ? `${Math.round(number)} ms` : `${(number / 1000).toFixed(1)} s`;
}

/** Save what an answer holds under a name. */
export async function save(response, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await response.blob()), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
