// Proteins of one sequence in space, superposed, by 3Dmol, which is loaded with the first one.

import { milliseconds, request } from "./api.js";

let library;

function load3Dmol() {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "page/vendor/3Dmol-min.js";
    script.addEventListener("load", () => resolve(window.$3Dmol));
    script.addEventListener("error", () => reject(new Error("3Dmol could not be loaded")));
    document.head.append(script);
  });
  return library;
}

const COLORS = [[0x2b, 0x6c, 0xc4], [0x8f, 0xc6, 0xb3], [0xf2, 0xc1, 0x4e], [0xd0, 0x3b, 0x2c]]; // no deviation ... the largest

export class ProteinView {
  key = "structure";

  constructor(element, { report, fail }) {
    Object.assign(this, { element, report, fail });
    this.tint = "spectrum";
    this.deviations = [];
    this.number = 1;
    this.legend = element.appendChild(Object.assign(document.createElement("div"), { className: "legend", hidden: true }));
    this.observer = new ResizeObserver(() => this.viewer?.resize());
    this.observer.observe(element);
  }

  async show(parameters) {
    this.abort();
    const { signal } = this.controller = new AbortController();
    try {
      const [library, response] = await Promise.all([load3Dmol(), request("structures", parameters, signal)]);
      const { structures, deviations } = await response.json();
      if (signal.aborted) return;
      const isFirst = !this.viewer;
      this.viewer ??= library.createViewer(this.element, { backgroundAlpha: 0, backgroundColor: "white" });
      this.viewer.removeAllModels();
      for (const text of structures) this.viewer.addModel(text, "pdb");
      [this.number, this.deviations] = [structures.length, deviations];
      this.style();
      if (isFirst) this.viewer.zoomTo();
      this.viewer.render();
      this.report(milliseconds(response));
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  setTint(tint) {
    if (tint === this.tint) return;
    this.tint = tint;
    this.style();
  }

  style() {
    const most = Math.max(...this.deviations, 1e-9);
    const deviation = { colorfunc: (atom) => colorAt(this.deviations[atom.resi - 1] / most) };
    const color = { amino: { colorscheme: "amino" }, deviation }[this.tint] ?? { color: "spectrum" };
    const sticks = this.number === 1 ? { stick: { radius: 0.12, ...color } } : {};
    this.viewer?.setStyle({}, { cartoon: color, ...sticks });
    this.viewer?.render();
    this.legend.hidden = this.tint !== "deviation" || !this.deviations.length;
    this.legend.textContent = this.number > 1
      ? `0 to ${most.toFixed(1)} \u00c5 from the mean of ${this.number} samples` : "one sample does not deviate";
  }

  place() {}

  home() {
    this.viewer?.zoomTo();
    this.viewer?.render();
  }

  /** End the request under way. */
  abort() {
    this.controller?.abort();
  }

  destroy() {
    this.abort();
    this.observer.disconnect();
    this.viewer?.clear();
    this.element.replaceChildren();
  }
}

/** A color for a share from 0 to 1. */
function colorAt(share) {
  const at = Math.min(1, Math.max(0, share)) * (COLORS.length - 1);
  const low = Math.min(COLORS.length - 2, Math.floor(at));
  const mixed = COLORS[low].map((from, c) => Math.round(from + (at - low) * (COLORS[low + 1][c] - from)));
  return `#${mixed.map((number) => number.toString(16).padStart(2, "0")).join("")}`;
}
