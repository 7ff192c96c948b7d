// A protein in space, by 3Dmol, which is loaded with the first one.

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

export class ProteinView {
  key = "structure";

  constructor(element, { report, fail }) {
    Object.assign(this, { element, report, fail });
    this.tint = "spectrum";
    this.observer = new ResizeObserver(() => this.viewer?.resize());
    this.observer.observe(element);
  }

  async show(parameters) {
    this.controller?.abort();
    const { signal } = this.controller = new AbortController();
    try {
      const [library, response] = await Promise.all([load3Dmol(), request("file", { ...parameters, suffix: "pdb" }, signal)]);
      const text = await response.text();
      if (signal.aborted) return;
      const isFirst = !this.viewer;
      this.viewer ??= library.createViewer(this.element, { backgroundAlpha: 0, backgroundColor: "white" });
      this.viewer.removeAllModels();
      this.viewer.addModel(text, "pdb");
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
    const color = this.tint === "amino" ? { colorscheme: "amino" } : { color: "spectrum" };
    this.viewer?.setStyle({}, { cartoon: color, stick: { radius: 0.12, ...color } });
    this.viewer?.render();
  }

  place() {}

  home() {
    this.viewer?.zoomTo();
    this.viewer?.render();
  }

  destroy() {
    this.controller?.abort();
    this.observer.disconnect();
    this.viewer?.clear();
    this.element.replaceChildren();
  }
}
